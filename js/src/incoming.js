// What pages see: the global `incoming`, or the exports of the module.

import { baseUrlOfHost, checkedBaseUrl, defaultBaseUrl, uploadUrl } from './address.js';
import { BROWSER } from './environment.js';
import { Upload } from './uploader.js';

/**
 * @param {string} loaded_from the URL of this script, "" if unknown
 * @param {import('./environment.js').Environment} [environment]
 */
export function makeIncoming(loaded_from, environment = BROWSER) {
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
