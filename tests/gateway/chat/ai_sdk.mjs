// The Vercel AI SDK's chat, which React's useChat is a thin layer over: node ai_sdk.mjs <api> <chat id> [<browser>]

import { AbstractChat, DefaultChatTransport } from "ai"
import { obey, pause, say } from "./lines.mjs"

const [api, id, browser = "node"] = process.argv.slice(2)
const statuses = []

class State {
  status = "ready"
  error = undefined
  messages = []
  pushMessage = (message) => this.#set([...this.messages, message])
  popMessage = () => this.#set(this.messages.slice(0, -1))
  replaceMessage = (index, message) =>
    this.#set([...this.messages.slice(0, index), structuredClone(message), ...this.messages.slice(index + 1)])
  snapshot = (thing) => structuredClone(thing)

  #set(messages) {
    this.messages = messages
    const last = messages.at(-1)
    if (last?.role === "assistant") say({ length: textOf(last).length })
  }
}

class Chat extends AbstractChat {
  constructor() {
    const counted = async (...args) => {
      const response = await fetch(...args)
      statuses.push(response.status)
      return response
    }
    super({ id, transport: new DefaultChatTransport({ api, fetch: counted, headers: { "User-Agent": browser } }), state: new State() })
  }
}

const textOf = (message) => message.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("")

let chat = new Chat()

const outcome = () => ({
  status: chat.status,
  error: chat.error?.message,
  broken: chat.error instanceof TypeError,
  statuses: statuses.splice(0),
  messages: chat.messages.map(({ id, role, parts }) => ({ id, role, parts })),
  texts: chat.messages.filter(({ role }) => role === "assistant").map(textOf),
})

await obey({
  send: async ({ text }) => (await chat.sendMessage({ text }), outcome()),
  regenerate: async () => (await chat.regenerate(), outcome()),
  resume: async () => (await chat.resumeStream(), outcome()),
  // what an app does whose connection broke off: it resumes until it has all
  persist: async () => {
    let times = 0
    while (chat.error instanceof TypeError && times++ < 500) {
      await pause(20)
      await chat.resumeStream()
    }
    return { times, ...outcome() }
  },
  leave: async () => (await chat.stop(), outcome()),
  stop: async () => {
    const response = await fetch(`${api}/${encodeURIComponent(id)}/stop`, { method: "POST" })
    return { code: response.status, ...(await response.json()) }
  },
  reload: async ({ keep }) => {
    const messages = keep ? chat.messages : chat.messages.filter(({ role }) => role === "user")
    chat = new Chat()
    chat.messages = structuredClone(messages)
    return {}
  },
})
