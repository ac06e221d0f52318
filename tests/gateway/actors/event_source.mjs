// Follows a channel with EventSource as browsers have it. Says each event, and each connection, as a JSON line.

import { EventSource } from "eventsource"

const say = (what) => process.stdout.write(JSON.stringify(what) + "\n")
const source = new EventSource(process.argv[2])

source.onopen = () => say({ open: true })
source.onmessage = (event) => say({ id: event.lastEventId, data: JSON.parse(event.data) })
source.addEventListener("reset", (event) => say({ id: event.lastEventId, reset: JSON.parse(event.data) }))
source.addEventListener("closed", (event) => say({ id: event.lastEventId, closed: true }))
source.onerror = (error) => {
  if (source.readyState === EventSource.CLOSED) {
    say({ ended: error.code ?? null })
    process.exit(0)
  }
}
