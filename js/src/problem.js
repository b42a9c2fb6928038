// What an answer of the server means: go on, try again, or never.

import { retryAfter_ms } from './backoff.js';

/**
 * Something that went wrong, in words of the server where it has some.
 *
 * @typedef {object} Problem
 * @property {string} code stable, for programs
 * @property {string} message for people; may be ""
 * @property {number | null} [retry_after_ms] when the server wants to be asked again
 */

/** @typedef {import('./transport.js').Answer} Answer */

/** @type {Problem} */
export const NO_ANSWER = { code: 'no_answer', message: '' };
/** @type {Problem} */
export const STRANGE_ANSWER = { code: 'strange_answer', message: 'something else than the upload service answers' };

// Of the 4xx these pass: a request that could not be answered in time, another offset, a lock, too early, too many
// requests, a checksum that did not match (460, tus 1.0.0).
const PASSING_4XX = new Set([408, 409, 423, 425, 429, 460]);

/**
 * @param {Answer} answer
 * @returns {'ok' | 'passing' | 'final'}
 */
export function verdict({ status }) {
  if (status >= 200 && status < 300) {
    return 'ok';
  }
  return status >= 400 && status < 500 && !PASSING_4XX.has(status) ? 'final' : 'passing';
}

/**
 * @param {string} text
 * @returns {Record<string, unknown> | null} null if the text is no JSON object
 */
export function jsonObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/**
 * @param {...unknown} values
 * @returns {string} the first that is a text with something in it, else ""
 */
export function textOf(...values) {
  return String(values.find((value) => typeof value === 'string' && value !== '') ?? '');
}

/**
 * The problem that an answer tells (RFC 9457 document), or one made from its status where something between us and the
 * server has answered.
 *
 * @param {Answer} answer
 * @param {number} now_ms milliseconds since 1970
 * @returns {Problem}
 */
export function problemOf(answer, now_ms) {
  const { code, detail, title } = jsonObject(answer.text) ?? {};
  const asked_ms = retryAfter_ms(answer.header('Retry-After'), now_ms);
  return {
    code: textOf(code) || `http_${answer.status}`,
    message: textOf(detail, title) || `The server answered with status ${answer.status}.`,
    // With another offset than ours the server is ready to go on at once.
    retry_after_ms: answer.status === 409 ? (asked_ms ?? 0) : asked_ms,
  };
}
