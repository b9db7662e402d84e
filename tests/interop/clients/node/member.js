// A member of a group by kafkajs: node member.js BOOTSTRAP GROUP TOPIC. It prints {"assigned": [partitions]} when it has joined, or has
// lost all, and {"handled": [values]} for each batch, which it commits before the next one. A line on stdin ends it: it leaves.
'use strict'
const { Kafka, logLevel } = require('kafkajs')

const [, , servers, groupId, topic] = process.argv
const say = what => process.stdout.write(JSON.stringify(what) + '\n')

async function main() {
  const kafka = new Kafka({ clientId: 'interop', brokers: servers.split(','), logLevel: logLevel.NOTHING })
  const consumer = kafka.consumer({ groupId, heartbeatInterval: 100, maxWaitTimeInMs: 50 })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => say({ assigned: payload.memberAssignment[topic] ?? [] }))
  consumer.on(consumer.events.REBALANCING, () => say({ assigned: [] }))
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    console.error(payload.error)
    if (!payload.restart) process.exit(1)
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    eachBatch: async ({ batch }) => say({ handled: batch.messages.map(message => String(message.value)) }),
  })
  await new Promise(resolve => process.stdin.once('data', resolve).once('end', resolve))
  await consumer.disconnect()
}

main().then(
  () => process.exit(0),
  error => {
    console.error(error)
    process.exit(1)
  },
)
