// How a test talks to a client: a JSON line in for each thing to do, JSON lines out for what has become of it.

import { createInterface } from "node:readline"

export const say = (what) => process.stdout.write(JSON.stringify(what) + "\n")

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Do what each line says, by its name in `actions`, one after the other; `{"at_once": true}` does not wait. */
export async function obey(actions) {
  let last = Promise.resolve()
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, at_once, ...rest } = JSON.parse(line)
    const act = async () => {
      try {
        say({ did: name, ...((await actions[name]?.(rest)) ?? {}) })
      } catch (error) {
        say({ did: name, failed: String(error?.stack ?? error) })
      }
    }
    if (at_once) await act()
    else last = last.then(act)
  }
  await last
  process.exit(0)
}
