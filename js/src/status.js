// What the status document of an upload (`…/status`) means for it.

import { jsonObject, textOf } from './problem.js';

/**
 * What the work of a state ends with.
 *
 * @typedef {{ event: import('./states.js').EventName, problem?: import('./problem.js').Problem }} Outcome
 */

/**
 * @typedef {object} StatusReport
 * @property {Outcome | null} outcome what follows; null: nothing yet
 * @property {number} offset
 * @property {string} handover_state "" if it says nothing of the hand-over
 * @property {unknown} client_data undefined if there is none
 */

/**
 * @param {unknown} value
 * @returns {Record<string, unknown>} the value if it is an object, else an empty one
 */
function objectOr(value) {
  return typeof value === 'object' && value !== null ? /** @type {Record<string, unknown>} */ (value) : {};
}

/**
 * @param {string} text JSON: `status`, `offset`, `handover` {`state`, `message`, `client_data`}, `error` {`code`, `message`}
 * @param {number} size_bytes of the file
 * @returns {StatusReport | null} null if the text is no status document
 */
export function readStatus(text, size_bytes) {
  const document = jsonObject(text);
  if (typeof document?.status !== 'string') {
    return null;
  }
  const offset = typeof document.offset === 'number' ? document.offset : 0;
  const handover = objectOr(document.handover);
  return {
    outcome: outcomeOf(document.status, offset < size_bytes, handover, objectOr(document.error)),
    offset,
    handover_state: textOf(handover.state),
    client_data: handover.client_data ?? undefined,
  };
}

/**
 * @param {string} status
 * @param {boolean} bytes_missing
 * @param {Record<string, unknown>} handover
 * @param {Record<string, unknown>} error
 * @returns {Outcome | null}
 */
function outcomeOf(status, bytes_missing, handover, error) {
  if (status === 'finished' || handover.state === 'done') {
    return { event: 'done' };
  }
  if (handover.state === 'refused') {
    const message = textOf(handover.message, error.message) || 'The application does not take this file.';
    return { event: 'fail', problem: { code: textOf(error.code) || 'refused', message } };
  }
  const message = textOf(error.message, handover.message);
  if (status === 'cancelled') {
    return { event: 'ended', problem: { code: 'cancelled', message } };
  }
  if (status === 'failed' || status === 'expired' || status === 'lost') {
    const code = textOf(error.code) || `upload_${status}`;
    return { event: 'fail', problem: { code, message: message || `The upload has ended: ${status}.` } };
  }
  return status === 'open' && bytes_missing ? { event: 'ask' } : null;
}
