// How long to wait before trying again.

/**
 * @typedef {object} BackoffTimes
 * @property {number} backoff_first_ms wait after the first failure (before jitter)
 * @property {number} backoff_max_ms   no own wait is longer than this
 * @property {number} retry_after_max_ms a server's `Retry-After` is believed up to this
 */

// A server that says "at once" again and again, and from which no byte gets through, is not to be hammered.
const IMMEDIATE_TRIES = 2;

/**
 * Exponential back-off with jitter: half of the wait is fixed, half is random, so that the clients of a restarted
 * server do not all come back in the same instant. `Retry-After` is honoured, and never undercut.
 *
 * @param {number} failures how many tries in a row have failed before this wait, without any progress; from 0
 * @param {number | null} retry_after_ms what the server asked for
 * @param {number} random from 0 to below 1
 * @param {BackoffTimes} times
 * @returns {number} milliseconds
 */
export function backoff_ms(failures, retry_after_ms, random, times) {
  if (retry_after_ms === 0 && failures < IMMEDIATE_TRIES) {
    return 0;
  }
  const whole_ms = Math.min(times.backoff_max_ms, times.backoff_first_ms * 2 ** Math.min(failures, 30));
  const own_ms = whole_ms / 2 + (random * whole_ms) / 2;
  const asked_ms = Math.min(retry_after_ms ?? 0, times.retry_after_max_ms);
  return asked_ms > own_ms ? asked_ms + (random * whole_ms) / 2 : own_ms;
}

/**
 * Read a `Retry-After` header (RFC 9110, section 10.2.3): seconds or a date.
 *
 * @param {string | null} header
 * @param {number} now_ms the present in milliseconds since 1970
 * @returns {number | null} milliseconds from now; null if there is none or it cannot be read
 */
export function retryAfter_ms(header, now_ms) {
  if (header === null || header.trim() === '') {
    return null;
  }
  if (/^\s*\d{1,9}\s*$/.test(header)) {
    return Number(header) * 1000;
  }
  const at_ms = Date.parse(header);
  return Number.isNaN(at_ms) ? null : Math.max(0, at_ms - now_ms);
}
