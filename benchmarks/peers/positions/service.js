// The latest position of each user and movie in Redis, and nothing else.
// `node service.js SOCKET PORT` runs it until it is ended; SOCKET is that of a redis-server.
'use strict'

const fastify = require('fastify')()
const Redis = require('ioredis')

const [socket, port] = process.argv.slice(2)
// What comes while Redis is asked goes to it together: it answers that with one fsync.
const redis = new Redis({ path: socket, enableAutoPipelining: true })

const event = {
  type: 'object',
  required: ['user', 'slug', 'at'],
  properties: { user: { type: 'string' }, slug: { type: 'string' }, at: { type: 'number' } }
}
const accepted = { type: 'object', properties: { accepted: { type: 'integer' } } }
const position = {
  type: 'object',
  properties: { at: { type: 'number' }, time: { type: 'integer' } }
}

const keyOf = (user, slug) => JSON.stringify([user, slug])

fastify.get('/readyz', async () => {
  await redis.ping()
  return 'ok'
})

fastify.post('/', { schema: { body: event, response: { 200: accepted } } }, async (request) => {
  const { user, slug, at } = request.body
  await redis.set(keyOf(user, slug), JSON.stringify({ at, time: Date.now() }))
  return { accepted: 1 }
})

// Several at once, to fill it.
fastify.post('/all', async (request) => {
  const pairs = request.body.map(({ user, slug, at }) => [
    keyOf(user, slug),
    JSON.stringify({ at, time: Date.now() })
  ])
  await redis.mset(pairs.flat())
  return { accepted: pairs.length }
})

fastify.get(
  '/v1/users/:user/movies/:slug',
  { schema: { response: { 200: position } } },
  async (request, reply) => {
    const found = await redis.get(keyOf(request.params.user, request.params.slug))
    return found === null ? reply.code(404).send() : JSON.parse(found)
  }
)

fastify.listen({ host: '127.0.0.1', port: Number(port) })
