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
export function describeFile(file) {
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
export function sameMetadata(one, other) {
  /** @param {string} header */
  const ordered = (header) => header.split(',').map((part) => part.trim()).filter(Boolean).sort().join(',');
  return ordered(one) === ordered(other);
}
