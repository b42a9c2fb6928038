// The upload resource: one request, one answer or none.

import { NO_ANSWER, problemOf, verdict } from './problem.js';

/** @typedef {import('./transport.js').Answer} Answer */

/**
 * @param {Answer} answer
 * @param {string} header
 * @returns {number | null} the header's whole number of bytes, null if there is none
 */
export function bytesIn(answer, header) {
  const text = answer.header(header);
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

export class Resource {
  #url;
  #environment;

  /**
   * @param {string} url absolute
   * @param {import('./environment.js').Environment} environment
   */
  constructor(url, environment) {
    this.#url = url;
    this.#environment = environment;
  }

  /**
   * One request to the upload or below it.
   *
   * @param {string} method
   * @param {AbortSignal} signal
   * @param {{ path?: string, headers?: Record<string, string>, body?: Blob, onsent?: (bytes: number) => void,
   *   timeout_ms?: number }} [more] the time limit is for requests without a body; default `answer_timeout_ms`
   * @returns {Promise<Answer | null>} null if there was no answer: unreachable, cut, too slow, ended by the signal
   */
  async exchange(method, signal, { path = '', headers = {}, body, onsent, timeout_ms } = {}) {
    const { sleep, times, transport } = this.#environment;
    if (signal.aborted) {
      return null;
    }
    const limit = new AbortController();
    const abort = () => limit.abort();
    signal.addEventListener('abort', abort);
    if (body === undefined) {
      void sleep(timeout_ms ?? times.answer_timeout_ms, limit.signal).then(abort);
    }
    try {
      return await transport({
        method,
        url: this.#url + path,
        // The status is not tus: without that header a page of another origin needs no preflight for it.
        headers: { ...(method !== 'GET' && { 'Tus-Resumable': '1.0.0' }), ...headers },
        signal: limit.signal,
        ...(body && { body }),
        // What is still on its way to us from a request that has been given up must not move any counter.
        ...(onsent && { onsent: (bytes) => limit.signal.aborted || onsent(bytes) }),
      });
    } catch {
      // Browsers tell pages nothing about why there is no answer, on purpose; all of it may pass.
      return null;
    } finally {
      signal.removeEventListener('abort', abort);
      abort();
    }
  }

  /**
   * What follows from an answer that is no success, or from none.
   *
   * @param {Answer | null} answer
   * @returns {import('./status.js').Outcome}
   */
  failure(answer) {
    if (answer === null) {
      return { event: 'trouble', problem: NO_ANSWER };
    }
    const problem = problemOf(answer, this.#environment.date_ms());
    return { event: verdict(answer) === 'final' ? 'fail' : 'trouble', problem };
  }
}
