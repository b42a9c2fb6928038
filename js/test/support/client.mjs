// What tests need to run the library in Node: a transport with progress, short times, and waiting for what happens.

import { request as httpRequest } from 'node:http';

import { TIMES } from '../../src/environment.js';
import { sleep } from '../../src/environment.js';
import { makeIncoming } from '../../src/incoming.js';

/** @typedef {import('../../src/environment.js').Environment} Environment */
/** @typedef {import('../../src/uploader.js').Upload} Upload */

/**
 * Node's HTTP client as a transport, with progress like a browser's XMLHttpRequest.
 *
 * @type {import('../../src/transport.js').Transport}
 */
export function nodeTransport({ method, url, headers, body, signal, onsent }) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const size = body?.size ?? 0;
    const request = httpRequest(url, {
      method,
      signal,
      headers: { ...headers, ...(method === 'PATCH' && { 'Content-Length': String(size) }) },
    });
    request.on('error', reject);
    request.on('response', async (response) => {
      try {
        const parts = [];
        for await (const part of response) {
          parts.push(part);
        }
        resolve({
          status: response.statusCode ?? 0,
          header: (name) => String(response.headers[name.toLowerCase()] ?? '') || null,
          text: Buffer.concat(parts).toString(),
        });
      } catch (error) {
        reject(error);
      }
    });
    if (!body) {
      request.end();
      return;
    }
    (async () => {
      let sent = 0;
      for await (const part of /** @type {AsyncIterable<Uint8Array>} */ (/** @type {unknown} */ (body.stream()))) {
        await new Promise((written, failed) => {
          request.write(part, (error) => (error ? failed(error) : written(undefined)));
        });
        sent += part.length;
        onsent?.(sent);
      }
      request.end();
    })().catch(reject);
  });
}

/**
 * An environment's `sleep` that notes how long an upload waits before it tries again.
 *
 * @param {number[]} waits_ms grows by each wait
 * @returns {Environment['sleep']}
 */
export function noting(waits_ms) {
  return (delay_ms, signal, early) => {
    if (early) {
      waits_ms.push(delay_ms);
    }
    return sleep(delay_ms, signal, early);
  };
}

/** The library's times with everything that a test waits for a hundred times shorter. */
export const SHORT_TIMES = {
  ...TIMES,
  backoff_first_ms: 4,
  backoff_max_ms: 20,
  guard_ms: 10,
  status_wait_ms: 200,
  status_pause_ms: 2,
};

/**
 * @param {Partial<Environment>} [changes]
 * @returns {Environment & { reported: unknown[] }}
 */
export function testEnvironment(changes = {}) {
  /** @type {unknown[]} */
  const reported = [];
  return {
    transport: nodeTransport,
    times: SHORT_TIMES,
    random: Math.random,
    now_ms: () => performance.now(),
    date_ms: () => Date.now(),
    sleep,
    frame: (callback) => void setImmediate(callback),
    report: (error) => reported.push(error),
    reported,
    ...changes,
  };
}

/**
 * @param {{ base_url: string }} server
 * @param {Environment} [environment]
 */
export function incomingAt(server, environment = testEnvironment()) {
  return makeIncoming(`${server.base_url}/incoming/1.0/frontend/incoming.js`, environment);
}

/**
 * Wait until something is so.
 *
 * @param {Upload} upload
 * @param {(upload: Upload) => boolean} so
 * @returns {Promise<void>}
 */
export function until(upload, so) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (so(upload)) {
        resolve();
      } else if (upload.finished || upload.cancelled || upload.state === 'failed') {
        reject(new Error(`it ended before: ${upload.state_msg}`));
      }
    };
    const former = upload.onprogress;
    upload.onprogress = (u) => {
      former?.(u);
      look();
    };
    look();
  });
}

/**
 * Start an upload and wait for its end.
 *
 * @param {Upload} upload
 * @returns {Promise<'finished' | 'cancelled' | 'failed'>}
 */
export function ended(upload) {
  const end = new Promise((resolve) => {
    upload.onfinished = () => resolve('finished');
    upload.oncancelled = () => resolve('cancelled');
    upload.onerror = () => resolve('failed');
  });
  upload.start();
  return /** @type {Promise<'finished' | 'cancelled' | 'failed'>} */ (end);
}

/** @param {number} size_bytes @param {number} [seed] @returns {Buffer} */
export function content(size_bytes, seed = 1) {
  const bytes = Buffer.alloc(size_bytes);
  let x = seed;
  for (let i = 0; i < size_bytes; i += 1) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

/** @param {Buffer} bytes @param {string} [name] @param {number} [lastModified] */
export function fileOf(bytes, name = 'holiday.mp4', lastModified = 1_700_000_000_000) {
  return new File([new Uint8Array(bytes)], name, { type: 'video/mp4', lastModified });
}
