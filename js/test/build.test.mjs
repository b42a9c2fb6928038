// The two files that the daemon serves: current, and loadable where pages load them.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { createContext, runInContext } from 'node:vm';
import { Worker } from 'node:worker_threads';

import { DOCUMENT, STATIC, build, documented } from '../build.mjs';

const classic = readFileSync(new URL('incoming.js', STATIC), 'utf8');
const module_ = readFileSync(new URL('incoming.mjs', STATIC), 'utf8');

const PLACEHOLDER = '"__INCOMING_BASE_URL__"';

/**
 * Run the classic script as a page or a worker does, where strings cannot become code (as under a strict
 * Content-Security-Policy).
 *
 * @param {string} script
 * @param {object} globals
 * @returns {any} the global `incoming`
 */
function load(script, globals) {
  const context = createContext({ URL, Blob, AbortController, TextEncoder, btoa, ...globals }, {
    codeGeneration: { strings: false, wasm: false },
  });
  runInContext(script, context);
  return context.incoming;
}

/** Let an upload send its first request, and no other. @param {any} incoming */
function askOnce(incoming) {
  const upload = incoming.Uploader('ticket', new Blob(['x']));
  upload.start();
  upload.pause('pause');
  assert.equal(upload.paused, true);
}

test('the committed files are those that js/build.mjs makes (npm run build)', () => {
  assert.deepEqual({ 'incoming.js': classic, 'incoming.mjs': module_ }, build());
});

test('the picture of the states in the documentation is current (npm run build)', () => {
  const text = readFileSync(DOCUMENT, 'utf8');
  assert.match(text, /```mermaid/);
  assert.equal(text, documented(text));
});

test('the place for the base URL is in each of them exactly once', () => {
  for (const text of [classic, module_]) {
    assert.equal(text.split(PLACEHOLDER).length, 2);
  }
});

test('the classic script needs no document, no window and no eval', () => {
  const incoming = load(classic, {});
  assert.equal(typeof incoming.Uploader, 'function');
  assert.throws(() => incoming.Uploader('ticket', new Blob(['x'])), /the server is not known/);
});

test('the module loads in a worker', async () => {
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(workerData).then(({ Uploader, configure, default: incoming }) => {
      configure({ baseUrl: 'https://uploads.example.org' });
      const upload = Uploader('ticket', new Blob(['x']));
      parentPort.postMessage([upload.state, incoming.Uploader === Uploader, upload instanceof Uploader]);
    });`;
  const worker = new Worker(code, { eval: true, workerData: new URL('incoming.mjs', STATIC).href });
  const message = await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
  await worker.terminate();
  assert.deepEqual(message, ['idle', true, true]);
});

/** @type {[string, string, string, string][]} */
const cases = [
  ['the origin that it was loaded from', '""', 'https://up.example.org/incoming/1.0/frontend/incoming.js', 'https://up.example.org'],
  ['the base URL that the daemon filled in', '"https://cdn.example.org/up"', 'https://x.example/incoming.js', 'https://cdn.example.org/up'],
  ['the origin again where nothing was filled in', PLACEHOLDER, 'http://127.0.0.1:4000/i.js', 'http://127.0.0.1:4000'],
];
for (const [what, filled, src, base] of cases) {
  test(`uploads go to ${what}`, () => {
    /** @type {string[]} */
    const asked = [];
    const fetch = async (/** @type {string} */ url) => {
      asked.push(url);
      throw new TypeError('no network');
    };
    const globals = { document: { currentScript: { src } }, fetch, setTimeout, clearTimeout, performance };
    const incoming = load(classic.replace(PLACEHOLDER, filled), globals);
    askOnce(incoming);
    assert.deepEqual(asked, [`${base}/incoming/1.0/frontend/uploads/ticket`]);
    incoming.set_server_hostname('other.example:4001');
    askOnce(incoming);
    assert.equal(asked[1], `${new URL(base).protocol}//other.example:4001/incoming/1.0/frontend/uploads/ticket`);
  });
}
