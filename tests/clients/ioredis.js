// A client of ioredis for the chaos suite: HOST PORT PASSWORD NAME PAUSE_MS; one JSON object for each operation.
// HOST may be the path of a Unix socket.
// It retries nothing by itself and ends when its stdin does.
'use strict';

const Redis = require('ioredis');

const [host, port, password, name, pause] = process.argv.slice(2);
const SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]";
const OPS = ['set', 'get', 'incr', 'push', 'eval', 'exec', 'echo', 'set'];

let over = false;
process.stdin.resume();
process.stdin.on('end', () => { over = true; });

const micros = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function tell(op, n, began, outcome) {
  process.stdout.write(JSON.stringify({ op, n, b: began, e: micros(), ...outcome }) + '\n');
}

const expect = (found, expected) => (found === expected ? { r: 'ok' } : { r: 'wrong', m: String(found).slice(0, 300) });

async function ask(client, op, n) {
  const value = (letter) => `${name}:${letter}:${n}=`;
  switch (op) {
    case 'set':
      return expect(await client.set(`${name}:k:${n}`, value('k')), 'OK');
    case 'get': {
      const found = await client.get(`${name}:k:${n}`);
      return found === null ? { r: 'nil' } : expect(found, value('k'));
    }
    case 'incr':
      return { r: 'ok', v: await client.incr(`${name}:i`) };
    case 'push':
      await client.rpush(`${name}:l:${Math.floor(n / 64)}`, `${name}:${n}`);
      return { r: 'ok' };
    case 'eval':
      return expect(await client.eval(SCRIPT, 1, `${name}:e:${n}`, value('e')), value('e'));
    case 'exec': {
      const replies = await client.multi().set(`${name}:x:${n}`, value('x')).incr(`${name}:xc`).exec();
      if (replies === null) return { r: 'nil' };
      const [[setError], [incrError, counter]] = replies;
      if (setError || incrError) throw setError || incrError;
      return { r: 'ok', v: counter };
    }
    default:
      return expect(await client.echo(`${name}:${n}`), `${name}:${n}`);
  }
}

function failure(error) {
  if (error.name === 'ReplyError') return { r: 'error', m: error.message };
  return { r: 'cut', m: `${error.name}: ${error.message}` };
}

async function main() {
  const client = new Redis({
    ...(host.startsWith('/') ? { path: host } : { host, port: Number(port) }), password, connectionName: `chaos-${name}`,
    maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false, enableOfflineQueue: true,
    retryStrategy: () => 50, connectTimeout: 40000,
  });
  // Each failed request tells of it.
  client.on('error', () => {});
  let n = 0;
  let acknowledged = null;
  while (!over) {
    n += 1;
    let op = OPS[n % 8];
    let subject = n;
    if (op === 'get') {
      if (acknowledged === null) op = 'echo';
      else subject = acknowledged;
    }
    const began = micros();
    try {
      const outcome = await ask(client, op, subject);
      if (op === 'set' && outcome.r === 'ok') acknowledged = subject;
      tell(op, subject, began, outcome);
    } catch (error) {
      tell(op, subject, began, failure(error));
    }
    await sleep(Number(pause));
  }
  client.disconnect();
}

main();
