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
export function browserTransport(request) {
  // A service worker has no XMLHttpRequest: there fetch does it all, without progress.
  return request.body !== undefined && typeof XMLHttpRequest !== 'undefined' ? viaXhr(request) : viaFetch(request);
}

/** @type {Transport} */
export async function viaFetch({ method, url, headers, body, signal }) {
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
export function viaXhr({ method, url, headers, body, signal, onsent }) {
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
