// The page of a story. What it shows is the channel "output" of the actor session-NAME, and below that what the actor does
// (activity.js), and nothing else; NAME stands behind the # of the address. One WebSocket carries everything; when it breaks, the page opens another one and goes on
// behind the last offset that it has, wherever the story lives by then.

import { Activity } from "./activity.js";
import { Connection } from "./connection.js";

const CHANNEL = "output";
const PAUSE = 4_000; // a turn that writes nothing for so long is shown as paused
const AGAIN = 1_000; // until the next try of what was refused for now

/** The story as the channel has told it, and as the page shows it. */
class Story {
  after = null; // the offset of the last event
  turn = null; // the one that is being written
  #entries = [];

  constructor(article) {
    this.article = article;
  }

  /** Whether nothing was told yet. */
  get isEmpty() {
    return !this.#entries.length;
  }

  /** What comes first, as there is nothing before it. */
  startAt(offset) {
    if (this.after === null && offset > 0) this.after = offset - 1;
  }

  take({ offset, kind, data, turn }) {
    this.after = offset;
    if (kind === "item") {
      this.#entries.push({ offset, data, turn });
      this.#show(data, turn);
    } else if (kind === "reset") {
      // What was told from this offset on is told anew: forget it.
      this.#entries = this.#entries.filter((entry) => entry.offset < data);
      this.#showAll();
    }
  }

  /** Forget everything, to read it again from the beginning. */
  clear() {
    this.after = null;
    this.#entries = [];
    this.#showAll();
  }

  #showAll() {
    this.article.replaceChildren();
    this.turn = null;
    for (const { data, turn } of this.#entries) this.#show(data, turn);
  }

  #show(data, turn) {
    if (typeof data === "string") this.turn?.text.append(data); // append() makes a text node: nothing in it is HTML
    else if (data?.line) this.#begin(data, turn);
    else if (data?.end) this.#end(data.end);
  }

  #begin({ line, key }, id) {
    this.#end("stopped"); // the one before was given up without a word
    const section = element("section", "turn");
    const text = element("p", "text");
    section.append(element("p", "line", line), text);
    this.article.append(section);
    this.turn = { id, key, section, text };
  }

  #end(how) {
    if (!this.turn) return;
    this.turn.section.dataset.end = how;
    this.turn.text.normalize();
    this.turn = null;
  }
}

// crypto.randomUUID() is there only for pages that came over TLS or from this machine.
function randomText() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The lines that were written here and are not in the story yet. They outlive a reload. */
class Lines {
  #name;
  #lines = [];

  constructor(list) {
    this.list = list;
  }

  /** Whose lines they are. */
  open(name) {
    this.#name = `lines of ${name}`;
    this.#lines = JSON.parse(sessionStorage.getItem(this.#name) ?? "[]");
    this.#show();
  }

  get isEmpty() {
    return !this.#lines.length;
  }

  [Symbol.iterator]() {
    return this.#lines.values();
  }

  /** `instead`: the turn that is to stop for it. The key makes sure that it is written once, however often it is sent. */
  add(line, instead) {
    const added = { line, instead, key: randomText() };
    this.#lines.push(added);
    this.#changed();
    return added;
  }

  remove(key) {
    if (!this.#lines.some((waiting) => waiting.key === key)) return;
    this.#lines = this.#lines.filter((waiting) => waiting.key !== key);
    this.#changed();
  }

  #changed() {
    sessionStorage.setItem(this.#name, JSON.stringify(this.#lines));
    this.#show();
  }

  #show() {
    this.list.replaceChildren(...this.#lines.map(({ line }) => element("li", "", line)));
  }
}

const parts = [...document.querySelectorAll("[data-part]")];
const page = Object.fromEntries(parts.map((found) => [found.dataset.part, found]));
const story = new Story(page.story);
const lines = new Lines(page.waiting);
const activity = new Activity(page);
let name = ""; // of the story
let connection = { state: "connecting", until: 0 };
let subscription = null; // its id
let tail = null; // the offset behind what was there when it began; null until that is known
let stopping = null; // the turn that is to stop
let following = true; // whether the page scrolls along
let isSeen = true; // whether the others are told of this reader
let watching = new Set(); // the ids of who reads along
let pause;
let tick;

const address = () => `session-${name}`;
const randomName = () => randomText().slice(0, 6);

// -- what comes ------------------------------------------------------------------------------------------------------

/** Show the story that the address of the page names. */
function enter() {
  const given = nameIn(location.hash.slice(1));
  if (!given) return location.replace(`#${randomName()}`); // which comes back here
  if (given === name) return;
  if (subscription) wire.request({ type: "unsubscribe" }, subscription).catch(() => {});
  name = given;
  document.title = `${name} · Story`;
  page.name.textContent = name;
  subscription = tail = stopping = null;
  meet({ event: "state", readers: [] });
  following = true;
  notice("");
  story.clear();
  lines.open(name);
  activity.open(address());
  if (wire.isOpen) begin();
  show();
}

function begin() {
  follow();
  activity.follow(wire);
}

function nameIn(hash) {
  try {
    return decodeURIComponent(hash).trim();
  } catch {
    return hash; // a percent sign of its own
  }
}

/** Subscribe behind what is there already; then send what waits for that. */
async function follow() {
  const id = (subscription = wire.newId());
  tail = null;
  show();
  const frame = { type: "subscribe", address: address(), channel: CHANNEL, after: story.after, presence: isSeen };
  try {
    const subscribed = await wire.request(frame, id);
    tail = subscribed.tail;
    story.startAt(subscribed.next);
  } catch (problem) {
    if (!problem || id !== subscription) return;
    // The story is younger than what this page has of it, or its beginning is gone: read all that there is.
    if (["OffsetBeyondTail", "OffsetGone"].includes(problem.type)) story.clear();
    else notice(`This story cannot be read: ${problem.detail}`);
    return again();
  }
  notice("");
  for (const line of lines) deliver(line);
  if (stopping) interrupt(stopping, "stopped");
  show();
}

function again() {
  const id = subscription;
  setTimeout(() => id === subscription && wire.isOpen && follow(), AGAIN);
}

function take(frame) {
  if (activity.take(frame) || frame.id !== subscription) return;
  if (frame.type === "event") {
    const { turn } = story;
    story.take(frame);
    if (frame.data?.key) lines.remove(frame.data.key);
    if (frame.data?.end && frame.offset >= tail) page.spoken.textContent = turn?.text.textContent ?? "";
    if (frame.kind === "closed") story.clear(); // it was deleted
    show();
  } else if (frame.type === "presence") {
    meet(frame);
  } else if (frame.type === "end") {
    follow();
  } else if (frame.type === "error") {
    isSeen &&= frame.problem.status !== 429; // too many are there to see each other
    again();
  }
}

// -- what goes -------------------------------------------------------------------------------------------------------

/** Send a line, and stop the turn that it is to replace. Either may be sent again, and takes effect once. */
async function deliver({ line, key, instead }) {
  const to = address();
  if (instead) interrupt(instead, "redirected");
  try {
    await persist({ type: "send", address: to, handler: "write", args: [line], idempotency_key: key });
  } catch (problem) {
    if (!problem || to !== address()) return; // it is sent when this story is connected the next time
    lines.remove(key);
    page.line.value ||= line;
    notice(`Your line was not taken: ${problem.detail}`);
    show();
  }
}

function interrupt(turn, reason) {
  const frame = { type: "interrupt", address: address(), message_id: turn, reason };
  return persist(frame).catch((problem) => problem && notice(`It could not be stopped: ${problem.detail}`));
}

/** The answer to a frame, which is sent again while it is refused only for now. Rejected as `request` is. */
async function persist(frame) {
  for (;;) {
    try {
      return await wire.request(frame);
    } catch (problem) {
      if (!problem || (problem.status !== 429 && problem.status < 500)) throw problem;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
}

page.compose.addEventListener("submit", (event) => {
  event.preventDefault();
  const line = page.line.value.trim();
  if (!line) return;
  page.line.value = "";
  grow();
  following = true;
  const added = lines.add(line, story.turn?.id);
  if (wire.isOpen && tail !== null) deliver(added);
  show();
});

page.stop.addEventListener("click", () => {
  if (!story.turn) return;
  stopping = story.turn.id;
  if (wire.isOpen && tail !== null) interrupt(stopping, "stopped");
  page.line.focus();
  show();
});

page.line.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  page.compose.requestSubmit();
});
page.line.addEventListener("input", () => {
  grow();
  show();
});
page.fresh.addEventListener("click", () => (location.hash = randomName()));
for (const opening of page.empty.querySelectorAll("button")) {
  opening.addEventListener("click", () => {
    page.line.value = opening.textContent;
    page.compose.requestSubmit();
    page.line.focus();
  });
}

// -- what is seen ----------------------------------------------------------------------------------------------------

/** Everything but the story itself. */
function show() {
  const { turn } = story;
  if (stopping !== turn?.id) stopping = null;
  page.stop.hidden = !turn;
  page.stop.disabled = stopping !== null;
  page.write.textContent = turn ? "Redirect" : "Write";
  page.write.disabled = !page.line.value.trim();
  const isRead = tail !== null && (story.after ?? -1) >= tail - 1;
  page.empty.hidden = !isRead || !story.isEmpty || !lines.isEmpty;
  clearTimeout(pause);
  if (turn) pause = setTimeout(() => showStatus("paused"), PAUSE);
  showStatus(turn ? "writing" : "live");
  scroll();
}

function showStatus(state) {
  clearTimeout(tick);
  if (connection.state !== "open") state = connection.state;
  else if (tail === null) state = "connecting";
  page.status.dataset.state = state;
  page.status.textContent = state;
  const seconds = Math.ceil((connection.until - Date.now()) / 1000);
  if (state !== "reconnecting" || seconds < 2) return;
  const left = element("span", "left", `in ${seconds} s`);
  left.ariaHidden = "true"; // nobody wants to hear it count
  page.status.append(" ", left);
  tick = setTimeout(() => showStatus(state), 1_000);
}

/** Others have come or gone. */
function meet({ event, readers, reader }) {
  if (event === "state") watching = new Set(readers.map(({ id }) => id));
  else if (event === "join") watching.add(reader.id);
  else if (event === "leave") watching.delete(reader.id);
  page.watching.hidden = watching.size < 2;
  page.watching.textContent = `${watching.size} watching`;
}

function notice(text) {
  page.notice.hidden = !text;
  page.notice.textContent = text;
}

/** Make room for what is written, where CSS cannot (field-sizing). */
function grow() {
  if (CSS.supports("field-sizing", "content")) return;
  page.line.style.height = "auto";
  page.line.style.height = `${page.line.scrollHeight}px`;
}

function scroll() {
  page.newest.hidden = following;
  if (following) requestAnimationFrame(() => scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" }));
}

addEventListener("scroll", () => {
  following = innerHeight + scrollY > document.documentElement.scrollHeight - 100;
  page.newest.hidden = following;
});
page.newest.addEventListener("click", () => {
  following = true;
  scroll();
});

// Any actor's socket will do: each frame names the actor that it is for.
const wire = new Connection(new URL("/v1/actors/session-any/ws", location), {
  onOpen: begin,
  onFrame: take,
  onState: (state, delay = 0) => {
    connection = { state, until: Date.now() + delay };
    if (state !== "open") meet({ event: "state", readers: [] });
    show();
  },
});
addEventListener("hashchange", enter);
enter();
