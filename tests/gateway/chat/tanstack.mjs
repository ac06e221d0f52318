// TanStack AI's chat client: node tanstack.mjs <url> <thread id>

import { ChatClient, fetchServerSentEvents } from "@tanstack/ai-client"
import { obey, say } from "./lines.mjs"

const [url, threadId] = process.argv.slice(2)
const requests = []
const events = []

const fetchClient = async (input, init) => {
  const request = { method: init?.method ?? "GET", after: new Headers(init?.headers).get("last-event-id") }
  requests.push(request)
  const response = await fetch(input, init)
  request.status = response.status
  return response
}

const connection = fetchServerSentEvents(url, { fetchClient })
const textOf = (message) => message.parts.flatMap((part) => (part.type === "text" ? [part.content] : [])).join("")

let errors = []
const make = (options = {}) =>
  new ChatClient({
    connection,
    threadId,
    onError: (error) => errors.push(error.message),
    onChunk: (chunk) => events.push({ ...chunk }),
    onMessagesChange: (messages) => {
      const last = messages.at(-1)
      if (last?.role === "assistant") say({ length: textOf(last).length })
    },
    ...options,
  })

let client = make()

const outcome = () => ({
  status: client.status,
  errors: errors.splice(0),
  requests: requests.splice(0),
  events: events.splice(0),
  texts: client.getMessages().filter(({ role }) => role === "assistant").map(textOf),
})

await obey({
  send: async ({ text }) => (await client.sendMessage(text), outcome()),
  // what another device does that knows the id of the run
  join: async ({ run }) => {
    let text = ""
    const types = []
    for await (const chunk of connection.joinRun(run)) {
      types.push(chunk.type)
      if (chunk.type === "TEXT_MESSAGE_CONTENT") say({ length: (text += chunk.delta).length })
    }
    return { text, types, requests: requests.splice(0) }
  },
  // a reload of a page whose server has the chat: it asks by the id of the thread, and joins the run that is on
  reload: async () => {
    client.detach()
    const done = new Promise((resolve) => {
      client = make({ persistence: true, onFinish: resolve, onError: resolve })
    })
    client.attach()
    await done
    return outcome()
  },
  leave: async () => (client.stop(), {}),
  stop: async () => {
    const response = await fetch(`${url}/${encodeURIComponent(threadId)}/stop`, { method: "POST" })
    return { code: response.status, ...(await response.json()) }
  },
})
