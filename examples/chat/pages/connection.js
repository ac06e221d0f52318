// A WebSocket to the actors of a cluster. It knows nothing of the page that uses it.

const FIRST_DELAY = 250; // milliseconds until the second attempt to connect; doubled for each one after it
const LONGEST_DELAY = 5_000;
const OPENING_LIMIT = 5_000; // for a connection to be made
const SILENCE = 10_000; // after so much of it the page asks whether the other side is still there
const ANSWER_LIMIT = 5_000; // for the answer to that

/** A connection that comes back by itself. `onOpen` says what is wanted whenever there is a new one. */
export class Connection {
  #socket = null;
  #requests = new Map();
  #nextId = 1;
  #failures = 0;
  #retry = null;
  #watch = null;
  #heard = 0; // when the other side has last said something
  #asked = 0; // when it was last asked to

  constructor(url, { onOpen, onFrame, onState }) {
    Object.assign(this, { url, onOpen, onFrame, onState });
    addEventListener("online", () => this.open());
    document.addEventListener("visibilitychange", () => document.hidden || this.#wake());
    this.open();
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Connect now, whatever the delay. */
  open() {
    if (this.#socket) return;
    clearTimeout(this.#retry);
    this.onState(this.#failures ? "reconnecting" : "connecting");
    const socket = (this.#socket = new WebSocket(this.url));
    const current = (listener) => (event) => socket === this.#socket && listener(event);
    const limit = setTimeout(current(() => this.#lost()), OPENING_LIMIT);
    socket.onopen = current(() => {
      clearTimeout(limit);
      this.#heard = Date.now();
      this.#watch = setInterval(() => this.#check(), 1_000);
      this.onState("open");
      this.onOpen();
    });
    socket.onmessage = current((event) => {
      this.#heard = Date.now();
      this.#failures = 0;
      this.#take(JSON.parse(event.data));
    });
    socket.onclose = current(() => this.#lost());
  }

  /** Send a frame; the promise has the answer to it. It is rejected with a problem (RFC 9457), or without if the
      connection is lost before there is an answer. */
  request(frame, id = this.newId()) {
    return new Promise((resolve, reject) => {
      if (!this.isOpen) return reject();
      this.#requests.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...frame, id }));
    });
  }

  newId() {
    return this.#nextId++;
  }

  #take(frame) {
    const request = this.#requests.get(frame.id);
    if (!request) return this.onFrame(frame); // what a subscription brings
    this.#requests.delete(frame.id);
    if (frame.type === "error") request.reject(frame.problem);
    else request.resolve(frame);
  }

  // A connection whose other end has vanished looks like one on which nothing happens. So ask.
  #check(silence = SILENCE) {
    const now = Date.now();
    if (this.#asked > this.#heard) {
      if (now - this.#asked > ANSWER_LIMIT) this.#lost();
    } else if (now - this.#heard > silence) {
      this.#asked = now;
      this.request({ type: "ping" }).catch(() => {});
    }
  }

  // A phone that comes out of the pocket may have a connection that died there.
  #wake() {
    if (this.isOpen) this.#check(0);
    else this.open();
  }

  #lost() {
    const socket = this.#socket;
    this.#socket = null;
    clearInterval(this.#watch);
    socket.close();
    for (const { reject } of this.#requests.values()) reject();
    this.#requests.clear();
    const delay = Math.min(FIRST_DELAY * 2 ** this.#failures, LONGEST_DELAY) * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.onState("reconnecting", delay);
    this.#retry = setTimeout(() => this.open(), delay);
  }
}
