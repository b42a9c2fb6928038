// Incoming!! browser library. MIT License. Made from js/src/ by js/build.mjs; change it there.

// The life of one upload as the page sees it: which states there are, what each of them means for the
// flags that pages read, and which event leads where. Everything else follows this table.

/**
 * @typedef {object} StateFlags
 * @property {boolean} connected  the last thing we know is that the server answers us
 * @property {boolean} can_pause  `pause()` does something
 * @property {boolean} can_cancel `cancel()` does something
 * @property {boolean} final      nothing leads out
 */

/** @type {StateFlags} */
const FINAL = { connected: false, can_pause: false, can_cancel: false, final: true };

/**
 * When an upload is in which state.
 *
 * @satisfies {Record<string, StateFlags>}
 */
const STATES = {
  /** Made, `start()` not called: nothing has been asked of the server. */
  idle: { connected: false, can_pause: false, can_cancel: true, final: false },
  /** We ask the server how much of which file it has (HEAD). */
  asking: { connected: false, can_pause: true, can_cancel: true, final: false },
  /** We tell the server which file is coming (POST). */
  creating: { connected: true, can_pause: true, can_cancel: true, final: false },
  /** Bytes are on their way (PATCH). */
  sending: { connected: true, can_pause: true, can_cancel: true, final: false },
  /** Something went wrong that passes; we try again when a timer ends or the network is back. */
  reconnecting: { connected: false, can_pause: true, can_cancel: true, final: false },
  /** The page asked us to wait. No request is open. */
  paused: { connected: false, can_pause: true, can_cancel: true, final: false },
  /** The server has all bytes; we watch them being handed over to the web app. */
  watching: { connected: true, can_pause: false, can_cancel: true, final: false },
  /** The page asked us to cancel, the server is asked to (DELETE). */
  cancelling: { connected: true, can_pause: false, can_cancel: false, final: false },
  /** As cancelling, but the server could not be reached; we try again. */
  cancel_waiting: { connected: false, can_pause: false, can_cancel: false, final: false },
  /** The web app has the file. */
  finished: FINAL,
  /** Cancelled, by the page or by the web app. */
  cancelled: FINAL,
  /** It will not work; `error_code` and `error_msg` say why. */
  failed: FINAL,
};

/** @typedef {keyof typeof STATES} State */

/**
 * What happens to an upload:
 *
 * | event | meaning |
 * | --- | --- |
 * | start, pause, unpause, cancel | the page called the method |
 * | create | the server has nothing, or another file: it must be told of this one |
 * | send | the server told an offset from which on bytes are missing |
 * | arrived | the server has all bytes |
 * | ask | what we believed is outdated; ask the server |
 * | trouble | it did not work now; it may later |
 * | retry | time to try again |
 * | done | the web app took the file |
 * | ended | the upload is cancelled (by us or on the other side) |
 * | fail | it can never work |
 * | kept, kept_idle, kept_paused | the server would not cancel; back to what `cancel()` interrupted |
 *
 * @typedef {'start' | 'pause' | 'unpause' | 'cancel' | 'create' | 'send' | 'arrived' | 'ask' | 'trouble'
 *   | 'retry' | 'done' | 'ended' | 'fail' | 'kept' | 'kept_idle' | 'kept_paused'} EventName
 */

/** @type {Record<State, Partial<Record<EventName, State>>>} */
const TRANSITIONS = {
  idle: { start: 'asking', cancel: 'cancelling' },
  asking: {
    create: 'creating',
    send: 'sending',
    arrived: 'watching',
    trouble: 'reconnecting',
    pause: 'paused',
    cancel: 'cancelling',
    done: 'finished',
    ended: 'cancelled',
    fail: 'failed',
  },
  creating: {
    send: 'sending',
    arrived: 'watching',
    ask: 'asking',
    trouble: 'reconnecting',
    pause: 'paused',
    cancel: 'cancelling',
    done: 'finished',
    ended: 'cancelled',
    fail: 'failed',
  },
  sending: {
    arrived: 'watching',
    ask: 'asking',
    trouble: 'reconnecting',
    pause: 'paused',
    cancel: 'cancelling',
    done: 'finished',
    ended: 'cancelled',
    fail: 'failed',
  },
  reconnecting: { retry: 'asking', pause: 'paused', cancel: 'cancelling', fail: 'failed' },
  paused: { unpause: 'asking', cancel: 'cancelling' },
  watching: {
    done: 'finished',
    ask: 'asking',
    trouble: 'reconnecting',
    cancel: 'cancelling',
    ended: 'cancelled',
    fail: 'failed',
  },
  cancelling: {
    done: 'finished',
    ended: 'cancelled',
    trouble: 'cancel_waiting',
    kept: 'asking',
    kept_idle: 'idle',
    kept_paused: 'paused',
    fail: 'failed',
  },
  cancel_waiting: { retry: 'cancelling', fail: 'failed' },
  finished: {},
  cancelled: {},
  failed: {},
};

/**
 * The state that an event leads to.
 *
 * @param {State} state
 * @param {EventName} event
 * @returns {State}
 * @throws {Error} when the event cannot happen in that state: an error in this library
 */
function nextState(state, event) {
  const next = TRANSITIONS[state][event];
  if (next === undefined) {
    throw new Error(`incoming: "${event}" cannot happen while ${state}`);
  }
  return next;
}

// What the server is told about a file (tus 1.0.0, `Upload-Metadata`), and how a file is recognised by it.

// The server takes 8 KiB of metadata; a very deep relative path is left out rather than be the reason for a refusal.
const METADATA_MAX_CHARS = 8000;

/**
 * @param {string} text
 * @returns {string} base64 of its UTF-8
 */
function base64Utf8(text) {
  let binary = '';
  for (const byte of new TextEncoder().encode(text)) {
    binary += String.fromCharCode(byte);
  }
  return btoa(binary);
}

/**
 * The metadata header of a file: its name, claimed type, path below a dropped folder and time of last change.
 *
 * A file's metadata and length are its fingerprint: the server gives the header back byte for byte (HEAD), and what
 * comes back as it was sent was created with the same file.
 *
 * @param {Blob} file a `File`; a bare `Blob` has neither name nor time
 * @returns {string}
 */
function describeFile(file) {
  const { name = '', lastModified, webkitRelativePath = '' } = /** @type {Partial<File>} */ (file);
  /** @type {[string, string][]} */
  const pairs = [
    ['filename', name],
    ['filetype', file.type],
    ['lastModified', lastModified === undefined ? '' : String(lastModified)],
    ['relativePath', webkitRelativePath],
  ];
  const parts = pairs.filter(([, value]) => value !== '').map(([key, value]) => `${key} ${base64Utf8(value)}`);
  const whole = parts.join(',');
  return whole.length <= METADATA_MAX_CHARS ? whole : parts.slice(0, -1).join(',');
}

/**
 * Whether two metadata headers say the same, whatever the order and the blanks.
 *
 * @param {string} one
 * @param {string} other
 * @returns {boolean}
 */
function sameMetadata(one, other) {
  /** @param {string} header */
  const ordered = (header) => header.split(',').map((part) => part.trim()).filter(Boolean).sort().join(',');
  return ordered(one) === ordered(other);
}

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
function backoff_ms(failures, retry_after_ms, random, times) {
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
function retryAfter_ms(header, now_ms) {
  if (header === null || header.trim() === '') {
    return null;
  }
  if (/^\s*\d{1,9}\s*$/.test(header)) {
    return Number(header) * 1000;
  }
  const at_ms = Date.parse(header);
  return Number.isNaN(at_ms) ? null : Math.max(0, at_ms - now_ms);
}

// Where the server is: from the daemon that served this file, from the page, or from where the file was loaded.

// The daemon replaces this literal by its configured base URL, or by "" when it has none.
const SERVED_BASE_URL = "__INCOMING_BASE_URL__";

const UPLOADS_PATH = '/incoming/1.0/frontend/uploads/';

/**
 * The base URL that uploads go to unless the page says otherwise.
 *
 * @param {string} loaded_from the URL of this script, "" if unknown
 * @returns {string} without a slash at its end; "" if nothing is known
 */
function defaultBaseUrl(loaded_from) {
  if (/^https?:/.test(SERVED_BASE_URL)) {
    return SERVED_BASE_URL.replace(/\/+$/, '');
  }
  for (const url of [loaded_from, globalThis.location?.href ?? '']) {
    // A bundler's blob: or a file: URL has no origin that a server could be found at.
    if (/^https?:/.test(url)) {
      return new URL(url).origin;
    }
  }
  return '';
}

/**
 * Check a base URL that a page gave.
 *
 * @param {string} base_url such as `https://uploads.example.org`
 * @returns {string} without a slash at its end
 * @throws {TypeError} if it is no absolute http or https URL
 */
function checkedBaseUrl(base_url) {
  if (typeof base_url !== 'string' || !URL.canParse(base_url) || !/^https?:$/.test(new URL(base_url).protocol)) {
    throw new TypeError(`incoming: baseUrl must be an absolute http or https URL, not ${JSON.stringify(base_url)}`);
  }
  const url = new URL(base_url);
  return (url.origin + url.pathname).replace(/\/+$/, '');
}

/**
 * The base URL of a server that a page names by its host, with the scheme that is in use anyway.
 *
 * @param {string} hostname host or host:port
 * @param {string} former_base_url whose scheme is kept
 * @returns {string}
 * @throws {TypeError} if it is not a host
 */
function baseUrlOfHost(hostname, former_base_url) {
  const scheme = former_base_url !== '' ? new URL(former_base_url).protocol : 'http:';
  const text = `${scheme}//${hostname}`;
  if (typeof hostname !== 'string' || /[/?#@\s]/.test(hostname) || !URL.canParse(text)) {
    throw new TypeError(`incoming: expected host or host:port, not ${JSON.stringify(hostname)}`);
  }
  return new URL(text).origin;
}

/**
 * The URL of an upload.
 *
 * @param {string} ticket an upload's id or its `upload_url`, absolute or path-absolute, as the backend API gave it
 * @param {string} base_url
 * @returns {string} absolute, without a slash at its end
 * @throws {TypeError} if it is neither, or if the server is not known
 */
function uploadUrl(ticket, base_url) {
  if (typeof ticket !== 'string' || ticket === '') {
    throw new TypeError('incoming: Uploader needs a ticket: its id or its upload_url');
  }
  const path = /^[A-Za-z0-9_-]+$/.test(ticket) ? UPLOADS_PATH + ticket : ticket;
  if (path.startsWith('/') && !path.startsWith('//')) {
    if (base_url === '') {
      throw new TypeError('incoming: the server is not known; call incoming.set_server_hostname() or configure() first');
    }
    return base_url + path;
  }
  if (!/^https?:/i.test(path) || !URL.canParse(path)) {
    throw new TypeError(`incoming: this is neither a ticket's id nor an upload_url: ${JSON.stringify(ticket)}`);
  }
  return path.replace(/\/+$/, '');
}

// The ways to the server. XMLHttpRequest carries the bytes, since it alone tells how many have left; fetch the rest.

/**
 * @typedef {object} Request
 * @property {string} method
 * @property {string} url absolute
 * @property {Record<string, string>} headers
 * @property {Blob} [body]
 * @property {AbortSignal} signal ends the request; its promise is then rejected
 * @property {(sent_bytes: number) => void} [onsent] called while bytes of the body leave
 */

/**
 * @typedef {object} Answer
 * @property {number} status
 * @property {(name: string) => string | null} header
 * @property {string} text the body; "" if there is none
 */

/**
 * A transport sends a request and settles once: with the server's answer, whatever its status, or with an error when
 * there is none (no network, connection cut, aborted).
 *
 * @typedef {(request: Request) => Promise<Answer>} Transport
 */

/** @type {Transport} */
function browserTransport(request) {
  // A service worker has no XMLHttpRequest: there fetch does it all, without progress.
  return request.body !== undefined && typeof XMLHttpRequest !== 'undefined' ? viaXhr(request) : viaFetch(request);
}

/** @type {Transport} */
async function viaFetch({ method, url, headers, body, signal }) {
  const response = await fetch(url, {
    method,
    headers,
    body: body ?? null,
    signal,
    cache: 'no-store',
    // The URL is the permission; cookies of the server's origin are nobody's business here.
    credentials: 'omit',
  });
  return { status: response.status, header: (name) => response.headers.get(name), text: await response.text() };
}

/** @type {Transport} */
function viaXhr({ method, url, headers, body, signal, onsent }) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const xhr = new XMLHttpRequest();
    const abort = () => xhr.abort();
    // An abort after the end would wipe the answer, which is read from the request object later.
    const settle = (/** @type {() => void} */ how) => () => {
      signal.removeEventListener('abort', abort);
      how();
    };
    xhr.open(method, url);
    for (const [name, value] of Object.entries(headers)) {
      xhr.setRequestHeader(name, value);
    }
    if (onsent) {
      xhr.upload.addEventListener('progress', (event) => onsent(event.loaded));
    }
    const header = (/** @type {string} */ name) => xhr.getResponseHeader(name);
    xhr.addEventListener('load', settle(() => resolve({ status: xhr.status, header, text: xhr.responseText })));
    xhr.addEventListener('error', settle(() => reject(new TypeError('the connection was lost'))));
    xhr.addEventListener('abort', settle(() => reject(new DOMException('the request was ended', 'AbortError'))));
    signal.addEventListener('abort', abort);
    xhr.send(body ?? null);
  });
}

// What an answer of the server means: go on, try again, or never.


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
const NO_ANSWER = { code: 'no_answer', message: '' };
/** @type {Problem} */
const STRANGE_ANSWER = { code: 'strange_answer', message: 'something else than the upload service answers' };

// Of the 4xx these pass: a request that could not be answered in time, another offset, a lock, too early, too many
// requests, a checksum that did not match (460, tus 1.0.0).
const PASSING_4XX = new Set([408, 409, 423, 425, 429, 460]);

/**
 * @param {Answer} answer
 * @returns {'ok' | 'passing' | 'final'}
 */
function verdict({ status }) {
  if (status >= 200 && status < 300) {
    return 'ok';
  }
  return status >= 400 && status < 500 && !PASSING_4XX.has(status) ? 'final' : 'passing';
}

/**
 * @param {string} text
 * @returns {Record<string, unknown> | null} null if the text is no JSON object
 */
function jsonObject(text) {
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
function textOf(...values) {
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
function problemOf(answer, now_ms) {
  const { code, detail, title } = jsonObject(answer.text) ?? {};
  const asked_ms = retryAfter_ms(answer.header('Retry-After'), now_ms);
  return {
    code: textOf(code) || `http_${answer.status}`,
    message: textOf(detail, title) || `The server answered with status ${answer.status}.`,
    // With another offset than ours the server is ready to go on at once.
    retry_after_ms: answer.status === 409 ? (asked_ms ?? 0) : asked_ms,
  };
}

// The upload resource: one request, one answer or none.


/** @typedef {import('./transport.js').Answer} Answer */

/**
 * @param {Answer} answer
 * @param {string} header
 * @returns {number | null} the header's whole number of bytes, null if there is none
 */
function bytesIn(answer, header) {
  const text = answer.header(header);
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

class Resource {
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

// What the status document of an upload (`…/status`) means for it.


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
function readStatus(text, size_bytes) {
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

// What an upload needs from where it runs: transport, time, randomness, frames. Tests bring their own.


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
const TIMES = {
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
function sleep(delay_ms, signal, early = false) {
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
function frame(callback) {
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
function report(error) {
  if (typeof globalThis.reportError === 'function') {
    globalThis.reportError(error);
  } else {
    setTimeout(() => {
      throw error;
    });
  }
}

/** @type {Environment} */
const BROWSER = {
  transport: browserTransport,
  times: TIMES,
  random: Math.random,
  now_ms: () => performance.now(),
  date_ms: () => Date.now(),
  sleep,
  frame,
  report,
};

// Tells the page what happened, without letting the page's mistakes hurt the upload.

class Announcer {
  #environment;
  #tell;
  #scheduled = false;

  /**
   * @param {import('./environment.js').Environment} environment
   * @param {() => void} tell calls the page's `onprogress`
   */
  constructor(environment, tell) {
    this.#environment = environment;
    this.#tell = tell;
  }

  /** Something changed: tell the page once before its next picture, however often this is called until then. */
  soon() {
    if (this.#scheduled) {
      return;
    }
    this.#scheduled = true;
    this.#environment.frame(() => {
      if (this.#scheduled) {
        this.now();
      }
    });
  }

  /** Tell the page at once. */
  now() {
    this.#scheduled = false;
    this.guarded(this.#tell);
  }

  /**
   * Call into the page. An exception there is reported like any uncaught one, and ends nothing here.
   *
   * @param {() => void} call
   */
  guarded(call) {
    try {
      call();
    } catch (error) {
      this.#environment.report(error);
    }
  }
}

// One upload: drives the state machine of states.js with the server's answers.


/** @typedef {import('./states.js').State} State */
/** @typedef {import('./states.js').EventName} EventName */
/** @typedef {import('./problem.js').Problem} Problem */
/** @typedef {import('./transport.js').Answer} Answer */
/** @typedef {import('./environment.js').Environment} Environment */
/** @typedef {import('./status.js').Outcome} Outcome */
/** @typedef {import('./status.js').StatusReport} StatusReport */
/** @typedef {((uploader: Upload) => void) | null} Callback */

// Pages written for Incoming!! 0.1 show counts of chunks. Bytes are no longer sent in chunks; this is the size of 0.1's.
const CHUNK_BYTES = 512 * 1024;

/** @type {Problem} */
const STALLED = { code: 'stalled', message: 'no byte got through for a while' };
/** @type {Problem} */
const REPLACED = { code: 'replaced', message: 'This upload was begun anew with another file, elsewhere.' };
/** @type {Problem} */
const UNREADABLE = {
  code: 'file_unreadable',
  message: 'The file can no longer be read: it was changed, moved or deleted since it was chosen.',
};

/**
 * Uploads one file against one ticket, through lost connections and restarts of the server, and tells what becomes
 * of it. The properties are for reading only, except for the callbacks; those are called with the uploader.
 */
class Upload {
  /** @type {Callback} anything observable changed; at most once for each picture the page draws */
  onprogress = null;
  /** @type {Callback} the web app has the file */
  onfinished = null;
  /** @type {Callback} cancelled, by the page or on the other side: see `cancel_msg` */
  oncancelled = null;
  /** @type {Callback} it failed for good: see `error_code` and `error_msg` */
  onerror = null;

  #environment;
  #announcer;
  #resource;
  #file;
  #metadata;

  /** @type {State} */
  #state = 'idle';
  /** Ends the work of the present state. */
  #job = new AbortController();
  /** The server has, or had, this file's beginning: whatever else it has now came from somebody else. */
  #established = false;
  /** The last offset that the server told. */
  #offset = 0;
  /** The highest of them. */
  #offset_max = 0;
  /** Where the bytes end that have left the browser, acknowledged or not. */
  #sent = 0;
  /** Where the present request for bytes began. */
  #sent_from = 0;
  /** The server has told that it has everything. */
  #arrived = false;
  /** Tries in a row that brought nothing. */
  #failures = 0;
  /** @type {Problem | null} why we are not connected */
  #trouble = null;
  /** @type {Problem | null} why it failed */
  #error = null;
  #cancel_msg = '';
  #cancel_refused = false;
  /** @type {EventName} how to go on if the server does not cancel */
  #kept = 'kept';
  #handover_state = '';
  /** @type {unknown} */
  #client_data = null;

  /** @type {Partial<Record<State, (signal: AbortSignal) => Promise<Outcome>>>} what is done while in a state */
  #work = {
    asking: (signal) => this.#ask(signal),
    creating: (signal) => this.#create(signal),
    sending: (signal) => this.#send(signal),
    watching: (signal) => this.#watch(signal),
    reconnecting: (signal) => this.#wait(signal),
    cancelling: (signal) => this.#cancelThere(signal),
    cancel_waiting: (signal) => this.#wait(signal),
  };

  /**
   * @param {string} url the upload's, absolute
   * @param {Blob} file
   * @param {Environment} environment
   */
  constructor(url, file, environment) {
    if (!(file instanceof Blob)) {
      throw new TypeError('incoming: Uploader needs a File or a Blob');
    }
    this.#resource = new Resource(url, environment);
    this.#file = file;
    this.#metadata = describeFile(file);
    this.#environment = environment;
    this.#announcer = new Announcer(environment, () => this.onprogress?.(this));
  }

  // What pages do

  /** Begin, or go on with what an earlier page began. Does nothing if it has been called before. */
  start() {
    if (this.#state === 'idle') {
      this.#to({ event: 'start' });
    }
  }

  /**
   * Pause or go on. Does nothing where `can_pause` is false.
   *
   * @param {'pause' | 'unpause' | 'toggle'} [what]
   */
  pause(what = 'toggle') {
    if (!['pause', 'unpause', 'toggle'].includes(what)) {
      throw new TypeError(`incoming: pause() takes 'pause', 'unpause' or 'toggle', not ${JSON.stringify(what)}`);
    }
    if (this.#state === 'paused') {
      if (what !== 'pause') {
        this.#to({ event: 'unpause' });
      }
    } else if (this.can_pause && what !== 'unpause') {
      this.#to({ event: 'pause' });
    }
  }

  /**
   * Cancel the upload, here and on the server. Does nothing where `can_cancel` is false.
   *
   * @param {string} [reason] given back as `cancel_msg`
   */
  cancel(reason = '') {
    if (!this.can_cancel) {
      return;
    }
    this.#cancel_msg = String(reason);
    this.#kept = this.#state === 'idle' ? 'kept_idle' : this.#state === 'paused' ? 'kept_paused' : 'kept';
    this.#to({ event: 'cancel' });
  }

  // What pages read

  /** The file's name, "" for a bare Blob. */
  get filename() {
    return /** @type {Partial<File>} */ (this.#file).name ?? '';
  }

  get bytes_total() {
    return this.#file.size;
  }

  /** Where the bytes end that have left the browser. Falls back after a lost connection to what the server kept. */
  get bytes_tx() {
    return this.#sent;
  }

  /** What the server has acknowledged; while bytes are being sent it is asked only now and then. */
  get bytes_acked() {
    return this.#offset;
  }

  get bytes_ahead() {
    return Math.max(0, this.#sent - this.#offset);
  }

  /** From 0 to 1; 1 only when the server has told that it has everything. It may not yet be handed over. */
  get frac_complete() {
    const total = this.#file.size;
    return this.#arrived ? 1 : total === 0 ? 0 : Math.min(this.#sent, total - 1) / total;
  }

  /** Of the present connection, in units of 512 KiB. */
  get chunks_tx_now() {
    return Math.ceil(Math.max(0, this.#sent - this.#sent_from) / CHUNK_BYTES);
  }

  /** Of the present connection, in units of 512 KiB. */
  get chunks_acked_now() {
    return Math.floor(Math.max(0, this.#offset - this.#sent_from) / CHUNK_BYTES);
  }

  get chunks_ahead() {
    return Math.max(0, this.chunks_tx_now - this.chunks_acked_now);
  }

  /** The state of the machine: `idle`, `asking`, `creating`, `sending`, `reconnecting`, `paused`, `watching`,
   * `cancelling`, `cancel_waiting`, `finished`, `cancelled` or `failed`. */
  get state() {
    return this.#state;
  }

  /** What the server told of the hand-over: "" before all bytes are there, then `arrived`, `handing_over`, `waiting`,
   * `done` or `refused`. */
  get handover_state() {
    return this.#handover_state;
  }

  /** What the web app gave for the page with its `done` or refusal; null if nothing. */
  get client_data() {
    return this.#client_data;
  }

  /** The state in words for a person. */
  get state_msg() {
    /** @param {string} text @param {string | undefined} why */
    const because = (text, why) => (why ? `${text} (${why})` : text);
    switch (this.#state) {
      case 'idle':
        return 'waiting';
      case 'asking':
      case 'creating':
      case 'reconnecting':
        return this.#trouble ? because('reconnecting', this.#trouble.message) : 'connecting';
      case 'sending':
        return 'uploading';
      case 'watching':
        return this.#handover_state === '' || this.#handover_state === 'arrived' ? 'arrived' : 'being handed over';
      case 'finished':
        return 'handed over';
      case 'cancelling':
      case 'cancel_waiting':
        return 'cancelling';
      case 'cancelled':
        return because('cancelled', this.#cancel_msg);
      case 'failed':
        return because(this.#error?.code === 'refused' ? 'refused' : 'failed', this.#error?.message);
      default:
        return this.#state;
    }
  }

  /** Why there is no connection, in words of the server where it has some; "" if there is one, or nothing is known. */
  get trouble_msg() {
    return this.connected || this.paused ? '' : (this.#trouble?.message ?? '');
  }

  get cancel_msg() {
    return this.#cancel_msg;
  }

  /** "" or the stable code of why it failed: the server's (`refused` where the web app said so), or one of the
   * library's own: `file_unreadable`, `replaced`, `http_<status>` for an answer without a code, `internal_error`. */
  get error_code() {
    return this.#error?.code ?? '';
  }

  get error_msg() {
    return this.#error?.message ?? '';
  }

  get connected() {
    return STATES[this.#state].connected;
  }

  get can_pause() {
    return STATES[this.#state].can_pause;
  }

  get can_cancel() {
    return STATES[this.#state].can_cancel && !this.#cancel_refused;
  }

  /** The web app has the file. */
  get finished() {
    return this.#state === 'finished';
  }

  get paused() {
    return this.#state === 'paused';
  }

  get cancelling() {
    return this.#state === 'cancelling' || this.#state === 'cancel_waiting';
  }

  get cancelled() {
    return this.#state === 'cancelled';
  }

  // The machine

  /** @param {Outcome} outcome */
  #to({ event, problem }) {
    this.#state = nextState(this.#state, event);
    this.#job.abort();
    const job = new AbortController();
    this.#job = job;
    if (event === 'trouble') {
      this.#trouble = problem ?? NO_ANSWER;
    } else if (event === 'fail') {
      this.#error = problem ?? null;
    } else if (event === 'ended') {
      this.#cancel_msg = problem?.message || this.#cancel_msg;
    } else if (event === 'arrived') {
      this.#arrived = true;
      this.#handover_state ||= 'arrived';
    }
    this.#work[this.#state]?.(job.signal).then(
      (outcome) => job === this.#job && this.#to(outcome),
      (error) => {
        // Not the network's fault (see Resource.exchange) but ours. Say so rather than hang.
        this.#environment.report(error);
        if (job === this.#job) {
          this.#to({ event: 'fail', problem: { code: 'internal_error', message: String(error) } });
        }
      },
    );
    this.#announce();
  }

  #announce() {
    if (!STATES[this.#state].final) {
      this.#announcer.soon();
      return;
    }
    this.#announcer.now();
    const last = { finished: this.onfinished, cancelled: this.oncancelled, failed: this.onerror };
    this.#announcer.guarded(() => last[/** @type {keyof typeof last} */ (this.#state)]?.(this));
  }

  /** @param {number} offset as the server told it */
  #told(offset) {
    this.#offset = offset;
    if (offset > this.#offset_max) {
      this.#offset_max = offset;
      this.#failures = 0;
      this.#trouble = null;
    }
    this.#announcer.soon();
  }

  // What is done in each state. Each returns what happened; where the state has been left meanwhile nobody listens.

  /** @param {AbortSignal} signal @returns {Promise<Outcome>} */
  async #ask(signal) {
    const answer = await this.#resource.exchange('HEAD', signal);
    if (answer === null || verdict(answer) !== 'ok') {
      return this.#refused(answer, signal);
    }
    const offset = bytesIn(answer, 'Upload-Offset');
    if (offset === null) {
      return { event: 'trouble', problem: STRANGE_ANSWER };
    }
    const same =
      bytesIn(answer, 'Upload-Length') === this.#file.size &&
      sameMetadata(answer.header('Upload-Metadata') ?? '', this.#metadata);
    if (!same) {
      // Beginning anew drops what is there. Two clients with two files that each do so would never end.
      return this.#established ? { event: 'fail', problem: REPLACED } : { event: 'create' };
    }
    return this.#goOn(offset);
  }

  /** @param {AbortSignal} signal @returns {Promise<Outcome>} */
  async #create(signal) {
    // Before the bytes of the former beginning are dropped for a file that cannot be read.
    if (!(await this.#readable(0))) {
      return { event: 'fail', problem: UNREADABLE };
    }
    const answer = await this.#resource.exchange('POST', signal, {
      headers: { 'Upload-Length': String(this.#file.size), 'Upload-Metadata': this.#metadata },
    });
    if (answer === null || verdict(answer) !== 'ok') {
      return this.#refused(answer, signal);
    }
    const offset = bytesIn(answer, 'Upload-Offset');
    // Either all begins, or the very same file is there already and only the answer was lost.
    return offset === 0 || offset === this.#file.size ? this.#goOn(offset) : { event: 'ask' };
  }

  /** @param {number} offset where this very file goes on @returns {Outcome} */
  #goOn(offset) {
    this.#established = true;
    this.#sent = offset;
    this.#told(offset);
    return { event: offset === this.#file.size ? 'arrived' : 'send' };
  }

  /** @param {AbortSignal} signal @returns {Promise<Outcome>} */
  async #send(signal) {
    const from = this.#offset;
    this.#sent_from = from;
    if (!(await this.#readable(from))) {
      return { event: 'fail', problem: UNREADABLE };
    }
    const ended = new AbortController();
    const end = () => ended.abort();
    signal.addEventListener('abort', end);
    if (signal.aborted) {
      end();
    }
    const moved = { at_ms: this.#environment.now_ms() };
    const patch = this.#resource.exchange('PATCH', ended.signal, {
      headers: { 'Upload-Offset': String(from), 'Content-Type': 'application/offset+octet-stream' },
      body: this.#file.slice(from),
      onsent: (bytes) => {
        moved.at_ms = this.#environment.now_ms();
        this.#sent = Math.min(from + bytes, this.#file.size);
        this.#announcer.soon();
      },
    });
    const cut = this.#guard(from, moved, ended.signal);
    const first = await Promise.race([patch, cut]);
    signal.removeEventListener('abort', end);
    end();
    if (first !== null && 'event' in first) {
      return first;
    }
    if (first === null || verdict(first) !== 'ok') {
      return this.#refused(first, signal);
    }
    const offset = bytesIn(first, 'Upload-Offset');
    if (offset === null || offset <= from) {
      return { event: 'trouble', problem: STRANGE_ANSWER };
    }
    this.#sent = offset;
    this.#told(offset);
    return { event: offset === this.#file.size ? 'arrived' : 'ask' };
  }

  /**
   * Look after an open PATCH: is the file still the one that was chosen, do bytes get through? What has left the browser
   * may still wait in buffers; then only the server can tell, by the status that neither moves nor interrupts anything.
   *
   * @param {number} from
   * @param {{ at_ms: number }} moved when a byte was last seen to move
   * @param {AbortSignal} signal
   * @returns {Promise<Outcome>} only when the PATCH has to be cut
   */
  async #guard(from, moved, signal) {
    const { now_ms, times, sleep } = this.#environment;
    for (;;) {
      await sleep(times.guard_ms, signal);
      if (!signal.aborted && !(await this.#readable(from))) {
        return { event: 'fail', problem: UNREADABLE };
      }
      if (now_ms() - moved.at_ms > times.stall_ms / 3) {
        const { report } = await this.#status(signal, '/status', times.stall_ms / 3);
        if (report && report.offset > this.#offset && !signal.aborted) {
          moved.at_ms = now_ms();
          this.#told(report.offset);
        }
        if (report?.handover_state) {
          // Everything is there; it is the answer that got lost.
          return { event: 'ask' };
        }
      }
      if (signal.aborted || now_ms() - moved.at_ms >= times.stall_ms) {
        return { event: 'trouble', problem: STALLED };
      }
    }
  }

  /** @param {AbortSignal} signal @returns {Promise<Outcome>} */
  async #watch(signal) {
    const { now_ms, times, sleep } = this.#environment;
    // The first question is answered at once: what is shown must not wait for a change. The next ones are held, each
    // for longer: a change in between two of them is heard of after no longer a time than it has taken already.
    for (let wait_ms = 0; ; wait_ms = Math.min(Math.max(2 * wait_ms, times.status_pause_ms), times.status_wait_ms)) {
      const asked_ms = now_ms();
      const known = this.#handover_state;
      const path = wait_ms === 0 ? '/status' : `/status?wait_s=${wait_ms / 1000}`;
      const { report, failure } = await this.#status(signal, path, wait_ms + times.answer_timeout_ms);
      const outcome = failure ?? this.#heed(report);
      if (outcome !== null) {
        return outcome;
      }
      this.#failures = 0;
      if (this.#handover_state !== known) {
        this.#announcer.soon();
        wait_ms = 0;
      } else if (wait_ms > 0 && now_ms() - asked_ms < times.status_pause_ms) {
        // It does not hold questions; then we do.
        await sleep(times.status_pause_ms, signal);
      }
    }
  }

  /** @param {AbortSignal} signal @returns {Promise<Outcome>} */
  async #wait(signal) {
    const { random, sleep, times } = this.#environment;
    const delay_ms = backoff_ms(this.#failures, this.#trouble?.retry_after_ms ?? null, random(), times);
    this.#failures += 1;
    await sleep(delay_ms, signal, true);
    return { event: 'retry' };
  }

  /** @param {AbortSignal} signal @returns {Promise<Outcome>} */
  async #cancelThere(signal) {
    const answer = await this.#resource.exchange('DELETE', signal);
    if (answer === null) {
      return { event: 'trouble', problem: NO_ANSWER };
    }
    if (verdict(answer) === 'ok' || answer.status === 404 || answer.status === 410) {
      // The web app may have taken the file in this very moment; then that is what the page must hear.
      const { report } = this.#arrived ? await this.#status(signal, '/status') : { report: null };
      return (report?.outcome?.event === 'done' && this.#heed(report)) || { event: 'ended' };
    }
    // 423: too late, it is being handed over (and may come back from there). Another 4xx: not allowed here at all.
    const final = verdict(answer) === 'final';
    if (final || answer.status === 423) {
      this.#cancel_refused = final;
      this.#cancel_msg = '';
      return { event: this.#kept };
    }
    return this.#resource.failure(answer);
  }

  // What is common to several states

  /**
   * Ask how the upload stands. This moves nothing on the server and interrupts nobody.
   *
   * @param {AbortSignal} signal
   * @param {string} path
   * @param {number} [timeout_ms]
   * @returns {Promise<{ report: StatusReport, failure: null } | { report: null, failure: Outcome }>}
   */
  async #status(signal, path, timeout_ms) {
    const answer = await this.#resource.exchange('GET', signal, { path, ...(timeout_ms && { timeout_ms }) });
    if (answer === null || verdict(answer) !== 'ok') {
      return { report: null, failure: this.#resource.failure(answer) };
    }
    const report = readStatus(answer.text, this.#file.size);
    return report ? { report, failure: null } : { report, failure: { event: 'trouble', problem: STRANGE_ANSWER } };
  }

  /**
   * Take from a status what the page may read.
   *
   * @param {StatusReport} report
   * @returns {Outcome | null}
   */
  #heed({ outcome, handover_state, client_data }) {
    this.#handover_state = handover_state || this.#handover_state;
    this.#client_data = client_data ?? this.#client_data;
    if (outcome?.event === 'done') {
      this.#arrived = true;
      this.#sent = this.#offset = this.#file.size;
      this.#handover_state = 'done';
    }
    return outcome;
  }

  /**
   * What follows from an answer that is no success.
   *
   * @param {Answer | null} answer
   * @param {AbortSignal} signal
   * @returns {Promise<Outcome>}
   */
  async #refused(answer, signal) {
    const told = this.#resource.failure(answer);
    // An answer to HEAD has no body, and 410 says that it has ended, not how; the status knows.
    if (told.event !== 'fail' || (answer?.text !== '' && answer?.status !== 410)) {
      return told;
    }
    const { report, failure } = await this.#status(signal, '/status');
    if (report === null) {
      return failure;
    }
    const { event } = report.outcome ?? {};
    // What the web app took may have been another file.
    const ours = event === 'ended' || event === 'fail' || (event === 'done' && this.#established);
    return (ours && this.#heed(report)) || told;
  }

  /**
   * Whether the file can still be read: browsers refuse once it has changed on the disk. A request for it would only
   * look like a lost connection.
   *
   * @param {number} from
   * @returns {Promise<boolean>}
   */
  async #readable(from) {
    try {
      // One byte where we go on, one at the end: a file that has become shorter fails at the latter.
      for (const at of [from, this.#file.size - 1]) {
        const byte = this.#file.slice(Math.max(0, at), at + 1);
        if ((await byte.arrayBuffer()).byteLength !== byte.size) {
          return false;
        }
      }
      return true;
    } catch {
      return false;
    }
  }
}

// What pages see: the global `incoming`, or the exports of the module.


/**
 * @param {string} loaded_from the URL of this script, "" if unknown
 * @param {import('./environment.js').Environment} [environment]
 */
function makeIncoming(loaded_from, environment = BROWSER) {
  let base_url = defaultBaseUrl(loaded_from);

  /**
   * An upload of one file against one ticket; nothing happens before its `start()`. May be called without `new`.
   *
   * @param {string} ticket_id the ticket's id or its `upload_url`
   * @param {Blob} file
   * @returns {Upload}
   * @throws {TypeError} if the ticket or the file is none
   */
  function Uploader(ticket_id, file) {
    return new Upload(uploadUrl(ticket_id, base_url), file, environment);
  }
  Uploader.prototype = Upload.prototype;

  return {
    Uploader,

    /**
     * Say where the server is, where the daemon that served this script does not know its own address.
     *
     * @param {{ baseUrl: string }} options such as `{ baseUrl: 'https://uploads.example.org' }`
     */
    configure({ baseUrl }) {
      base_url = checkedBaseUrl(baseUrl);
    },

    /**
     * The same for pages written for Incoming!! 0.1.
     *
     * @param {string} hostname host or host:port
     */
    set_server_hostname(hostname) {
      base_url = baseUrlOfHost(hostname, base_url);
    },
  };
}

const incoming = makeIncoming(import.meta.url);

export const { Uploader, configure, set_server_hostname } = incoming;
export default incoming;
