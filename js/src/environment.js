// What an upload needs from where it runs: transport, time, randomness, frames. Tests bring their own.

import { browserTransport } from './transport.js';

/**
 * All waits and limits, in milliseconds.
 *
 * @typedef {object} Times
 * @property {number} backoff_first_ms
 * @property {number} backoff_max_ms
 * @property {number} retry_after_max_ms
 * @property {number} answer_timeout_ms a request without a body is given up after this; the server may hold one for 10 s
 * @property {number} stall_ms bytes that do not move for this long are sent anew over another connection
 * @property {number} guard_ms how often an open PATCH is looked after
 * @property {number} status_wait_ms how long the server may hold a question about the hand-over in the end (at most 25 s)
 * @property {number} status_pause_ms ... and in the beginning; between two questions at least this passes
 */

/** @type {Times} */
export const TIMES = {
  backoff_first_ms: 300,
  backoff_max_ms: 10_000,
  retry_after_max_ms: 600_000,
  answer_timeout_ms: 30_000,
  stall_ms: 30_000,
  guard_ms: 1_000,
  status_wait_ms: 20_000,
  status_pause_ms: 1_000,
};

/**
 * @typedef {object} Environment
 * @property {import('./transport.js').Transport} transport
 * @property {Times} times
 * @property {() => number} random from 0 to below 1
 * @property {() => number} now_ms a clock that only goes forward
 * @property {() => number} date_ms milliseconds since 1970
 * @property {(delay_ms: number, signal: AbortSignal, early?: boolean) => Promise<void>} sleep resolves after the delay,
 *   when the signal ends it, or (`early`) when there is a reason to think that the network is back
 * @property {(callback: () => void) => void} frame calls back once, before the next picture is drawn
 * @property {(error: unknown) => void} report makes an error visible that nobody can handle
 */

/**
 * @param {number} delay_ms
 * @param {AbortSignal} signal
 * @param {boolean} [early]
 * @returns {Promise<void>}
 */
export function sleep(delay_ms, signal, early = false) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const wake = () => {
      clearTimeout(timer);
      over.abort();
      resolve();
    };
    const timer = setTimeout(wake, delay_ms);
    if (signal.aborted) {
      wake();
      return;
    }
    const until = { signal: over.signal };
    signal.addEventListener('abort', wake, until);
    if (early) {
      globalThis.addEventListener?.('online', wake, until);
      // Timers of hidden pages are slowed down to one a minute: somebody who comes back to look must not wait for it.
      globalThis.document?.addEventListener(
        'visibilitychange',
        () => document.visibilityState === 'visible' && wake(),
        until,
      );
    }
  });
}

// A hidden page draws no pictures; what it shows (a title, a count) still has to follow.
const FRAME_MAX_MS = 250;

/** @param {() => void} callback */
export function frame(callback) {
  if (typeof requestAnimationFrame === 'undefined') {
    setTimeout(callback, 16);
    return;
  }
  const once = () => {
    cancelAnimationFrame(drawn);
    clearTimeout(timer);
    callback();
  };
  const drawn = requestAnimationFrame(once);
  const timer = setTimeout(once, FRAME_MAX_MS);
}

/** @param {unknown} error */
export function report(error) {
  if (typeof globalThis.reportError === 'function') {
    globalThis.reportError(error);
  } else {
    setTimeout(() => {
      throw error;
    });
  }
}

/** @type {Environment} */
export const BROWSER = {
  transport: browserTransport,
  times: TIMES,
  random: Math.random,
  now_ms: () => performance.now(),
  date_ms: () => Date.now(),
  sleep,
  frame,
  report,
};
