// The client of Durable Streams: node durable_streams.mjs <the url below which the streams are>

import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"
import { obey } from "./lines.mjs"

const [root] = process.argv.slice(2)

await obey({
  // writes each number in a batch of its own; when the fate of one is unknown it begins anew, as the same producer
  write: async ({ name, count }) => {
    const handle = await DurableStream.create({ url: `${root}/${name}`, contentType: "application/json" })
    for (let times = 1; ; times++) {
      const errors = []
      const onError = (error) => errors.push(String(error))
      const producer = new IdempotentProducer(handle, "writer", { maxBatchBytes: 1, onError })
      for (let number = 0; number < count && !errors.length; number++) {
        producer.append(JSON.stringify({ number }))
        await producer.flush()
      }
      await producer.detach()
      if (!errors.length) return { times }
    }
  },
  // reads so many items, each time from the offset that was reached when the connection broke off
  read: async ({ name, live, offset, count }) => {
    const items = []
    let breaks = 0
    while (items.length < count) {
      let mine = true
      try {
        const response = await stream({ url: `${root}/${name}`, offset, live, json: true })
        await new Promise((resolve, reject) => {
          response.subscribeJson(async (batch) => {
            if (!mine) return
            items.push(...batch.items)
            offset = batch.offset
            if (items.length >= count) response.cancel()
          })
          response.closed.then(resolve, reject)
        })
      } catch (error) {
        breaks++
      } finally {
        mine = false
      }
    }
    return { items, offset, breaks }
  },
})
