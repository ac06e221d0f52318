// The reference server on a free port of loopback. It says where, and ends with its stdin.
import { DurableStreamTestServer } from "@durable-streams/server"

const server = new DurableStreamTestServer({ host: "127.0.0.1", port: 0 })
const url = await server.start()
console.log(new URL(url).host)
process.stdin.on("end", () => process.exit(0)).resume()
