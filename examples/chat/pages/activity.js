// What an actor does, as its channel "$turns" tells it: the turn that runs, its steps, what it waits for, how the last one
// ended. Like the story it is a fold over a channel: it goes on behind the last offset, and a reload reads it all again.

const CHANNEL = "$turns";
const AGAIN = 1_000; // milliseconds until the next try of what was refused for now
const MOST = 5; // steps that are shown

/** The turns of one actor, and the part of the page that shows them. */
export class Activity {
  #wire = null;
  #address = "";
  #id = null; // of the subscription
  #after = null; // the offset of the last event
  #turns = new Map(); // by message id, in order: those that have not ended
  #last = null; // the one that ended last
  #due = false; // whether it will be shown anew with the next frame
  #tick;

  constructor({ activity, doing, steps }) {
    Object.assign(this, { activity, doing, steps });
  }

  /** Show another actor. */
  open(address) {
    if (this.#id !== null) this.#wire.request({ type: "unsubscribe" }, this.#id).catch(() => {});
    this.#address = address;
    this.#id = null;
    this.#clear();
  }

  /** Subscribe behind what is there already. */
  async follow(wire) {
    this.#wire = wire;
    const id = (this.#id = wire.newId());
    const frame = { type: "subscribe", address: this.#address, channel: CHANNEL, after: this.#after };
    try {
      await wire.request(frame, id);
    } catch (problem) {
      if (!problem || id !== this.#id) return;
      if (["OffsetBeyondTail", "OffsetGone"].includes(problem.type)) this.#clear(); // the actor was deleted, or this is old
      this.#again();
    }
  }

  /** Take a frame of the subscription; whether it was one. */
  take(frame) {
    if (this.#id === null || frame.id !== this.#id) return false;
    if (frame.type === "event") this.#tell(frame);
    else if (frame.type === "end") this.follow(this.#wire);
    else if (frame.type === "error") this.#again();
    return true;
  }

  #again() {
    const id = this.#id;
    setTimeout(() => id === this.#id && this.#wire.isOpen && this.follow(this.#wire), AGAIN);
  }

  #clear() {
    this.#after = this.#last = null;
    this.#turns.clear();
    this.#changed();
  }

  #tell({ offset, kind, data }) {
    this.#after = offset;
    if (kind === "closed") this.#clear(); // the actor was deleted
    if (kind !== "item") return;
    const { event, message_id: id } = data;
    const turn = this.#turns.get(id) ?? { handler: data.handler, steps: [] };
    if (event === "steered") this.#turns.delete(id);
    else if (["committed", "failed", "interrupted", "parked"].includes(event)) this.#end(id, turn, data);
    else this.#turns.set(id, this.#goesOn(turn, data));
    this.#changed();
  }

  #goesOn(turn, { event, at, step, steps, seconds, name, until, waited }) {
    if (event === "started" || event === "resumed") Object.assign(turn, { began: turn.began ?? at, steps: [], waits: null });
    else if (event === "step_started") turn.step = step;
    else if (event === "step_finished" || event === "step_failed") {
      if (turn.step === step) turn.step = null;
      turn.steps.push([step, seconds, event === "step_failed"]);
    } else if (event === "steps_finished") turn.steps.push(...steps);
    else if (event === "waiting") turn.waits = { name, until };
    else if (event === "continued" || event === "timed_out") {
      turn.waits = null;
      turn.steps.push([name, waited, event === "timed_out"]);
    }
    return turn;
  }

  #end(id, turn, data) {
    this.#turns.delete(id);
    this.#last = { ...data, steps: [...turn.steps, ...(data.steps ?? [])] };
  }

  #changed() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#show();
    });
  }

  #show() {
    clearTimeout(this.#tick);
    const running = [...this.#turns.values()].find((turn) => turn.began);
    const told = running ? goingOn(running) : this.#last ? over(this.#last) : ["", ""];
    const waiting = this.#turns.size - (running ? 1 : 0);
    this.activity.hidden = !told[1];
    this.doing.dataset.state = told[0];
    this.doing.textContent = told[1] + (waiting && told[1] ? ` · ${waiting} to come` : "");
    const steps = (running ?? this.#last)?.steps ?? [];
    this.steps.replaceChildren(...steps.slice(-MOST).map(item));
    if (running) this.#tick = setTimeout(() => this.#show(), 1_000);
  }
}

function goingOn({ handler, began, step, waits }) {
  if (waits) return ["waiting", `${handler} waits for ${waits.name}${waits.until ? ` until ${new Date(waits.until * 1000).toLocaleString()}` : ""}`];
  const seconds = Math.max(0, Math.floor(Date.now() / 1000 - began));
  return ["running", `${handler} runs${step ? `: ${step}` : ""} · ${seconds} s`];
}

function over({ event, handler, seconds, reason, error }) {
  const took = seconds === undefined ? "" : ` after ${seconds.toFixed(1)} s`;
  const why = reason ? `: ${reason}` : "";
  if (event === "parked") return [event, `${handler} is parked${why}`];
  if (event === "failed") return [event, `${handler} failed${took}: ${error.type}`];
  if (event === "interrupted" || reason) return ["interrupted", `${handler} was interrupted${took}${why}`];
  return [event, `${handler} committed${took}`];
}

function item([name, seconds, failed]) {
  const made = document.createElement("li");
  made.textContent = `${name} ${seconds.toFixed(1)} s`;
  if (failed) made.dataset.failed = "";
  return made;
}
