// kafkajs in the scenarios of the package's docstring: node client.js BOOTSTRAP SCENARIO VARIANT.
'use strict'
const assert = require('node:assert/strict')
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const lz4 = require('lz4js')
const zstd = require('@bokuweb/zstd-wasm')

CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
})

const [, , servers, scenario, variant] = process.argv
const kafka = new Kafka({ clientId: 'interop', brokers: servers.split(','), logLevel: logLevel.NOTHING })
const COUNT = 100
const CODECS = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' }
const value = i => `value ${i} ${'.'.repeat(200)}`
const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i)

async function withAdmin(work) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await work(admin)
  } finally {
    await admin.disconnect()
  }
}

const create = (topic, numPartitions) =>
  withAdmin(admin => admin.createTopics({ topics: [{ topic, numPartitions }], waitForLeaders: true }))

async function until(what, holds) {
  for (const end = Date.now() + 30_000; !holds(); await new Promise(resolve => setTimeout(resolve, 20))) {
    assert(Date.now() < end, `it never came to be that ${what}`)
  }
}

async function read(topic, count, readUncommitted = false) {
  const consumer = kafka.consumer({ groupId: `read-${topic}-${readUncommitted}`, readUncommitted })
  const found = []
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => void found.push(message) })
  await until(`${count} records came`, () => found.length >= count)
  await consumer.disconnect()
  assert.equal(found.length, count)
  return found
}

async function codecs() {
  const topic = `codec-${variant}`
  await zstd.init()
  await create(topic, 1)
  const producer = kafka.producer()
  await producer.connect()
  await producer.send({
    topic,
    compression: CompressionTypes[CODECS[variant]],
    messages: range(0, COUNT).map(i => ({
      key: `key ${i}`, value: value(i), timestamp: String(1_000_000_000_000 + i), headers: { n: String(i) },
    })),
  })
  await producer.disconnect()
  for (const [i, message] of (await read(topic, COUNT)).entries()) {
    assert.equal(message.offset, String(i))
    assert.equal(message.timestamp, String(1_000_000_000_000 + i))
    assert.equal(message.key.toString(), `key ${i}`)
    assert.equal(message.value.toString(), value(i))
    assert.equal(message.headers.n.toString(), String(i))
  }
}

async function transactions() {
  for (const topic of ['tx', 'tx-in', 'tx-out']) await create(topic, 1)
  const producer = kafka.producer({ transactionalId: 't', maxInFlightRequests: 1, idempotent: true })
  await producer.connect()
  for (const how of ['committed', 'aborted', 'again']) {
    const transaction = await producer.transaction()
    await transaction.send({ topic: 'tx', messages: range(0, 10).map(i => ({ value: `${how} ${i}` })) })
    await (how === 'aborted' ? transaction.abort() : transaction.commit())
  }
  const values = (await read('tx', 20)).map(message => message.value.toString())
  assert.deepEqual(values, ['committed', 'again'].flatMap(how => range(0, 10).map(i => `${how} ${i}`)))
  assert.equal((await read('tx', 30, true))[10].value.toString(), 'aborted 0')

  await producer.send({ topic: 'tx-in', messages: range(0, 10).map(i => ({ value: String(i) })) })
  const consumer = kafka.consumer({ groupId: 'tx-group' })
  await consumer.connect()
  await consumer.subscribe({ topics: ['tx-in'], fromBeginning: true })
  let done = 0
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ topic, partition, message }) => {
      const transaction = await producer.transaction()
      await transaction.send({ topic: 'tx-out', messages: [{ value: `out ${message.value}` }] })
      const offset = String(Number(message.offset) + 1)
      await transaction.sendOffsets({ consumerGroupId: 'tx-group', topics: [{ topic, partitions: [{ partition, offset }] }] })
      await transaction.commit()
      done += 1
    },
  })
  await until('all are done', () => done >= 10)
  await consumer.disconnect()
  await producer.disconnect()
  assert.equal((await read('tx-out', 10))[9].value.toString(), 'out 9')
}

async function join(topic, groupId, values) {
  const consumer = kafka.consumer({ groupId, heartbeatInterval: 200 })
  const member = { consumer, assigned: [] }
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    member.assigned = payload.memberAssignment[topic] ?? []
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommitThreshold: 1,
    eachMessage: async ({ message }) => void values.push(Number(message.value)),
  })
  return member
}

async function group() {
  const [topic, groupId] = [`shared-${variant}`, `group-${variant}`]
  await create(topic, 4)
  const values = []
  const producer = kafka.producer()
  await producer.connect()
  const send = (from, to) =>
    producer.send({ topic, messages: range(from, to).map(i => ({ value: String(i), partition: i % 4 })) })
  const [a, b] = [await join(topic, groupId, values), await join(topic, groupId, values)]
  await until('each has two partitions', () => a.assigned.length === 2 && b.assigned.length === 2)
  await send(0, 40)
  await until('all 40 are handled', () => values.length >= 40)
  await b.consumer.disconnect()
  await send(40, 80)
  await until('all 80 are handled', () => values.length >= 80)
  assert.equal(a.assigned.length, 4)
  await a.consumer.disconnect()
  await producer.disconnect()
  assert.deepEqual(values.sort((x, y) => x - y), range(0, 80))
  const [offsets] = await withAdmin(admin => admin.fetchOffsets({ groupId, topics: [topic] }))
  assert.equal(offsets.partitions.reduce((sum, each) => sum + Number(each.offset), 0), 80)
}

const work = { codecs, transactions, group }[scenario]
work().then(
  () => console.log('ok'),
  error => {
    console.error(error)
    process.exit(1)
  },
)
