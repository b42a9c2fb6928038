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
export function defaultBaseUrl(loaded_from) {
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
export function checkedBaseUrl(base_url) {
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
export function baseUrlOfHost(hostname, former_base_url) {
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
export function uploadUrl(ticket, base_url) {
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
