// The page: a row for each file, with the state that the uploader tells.
'use strict';

/* global incoming */

const ACTIVE_MAX = 3; // files at once; the others wait for their turn
const TICKET_RETRY_MS = 2000;
const UNDER_WAY = 'photodrop.under_way'; // what to ask for again after a reload

/** @param {string} selector @param {ParentNode} [within] @returns {any} */
const $ = (selector, within = document) => within.querySelector(selector);
/** @param {string} id @returns {any} a copy of the template's element */
const copy = (id) => $(`#${id}`).content.firstElementChild.cloneNode(true);

/** @param {number} bytes */
function size(bytes) {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB'];
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
  const value = bytes / 1000 ** step;
  return `${value.toFixed(step === 0 || value >= 100 ? 0 : 1)}\u00a0${units[step]}`;
}

/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 60) {
    return `${Math.max(1, Math.round(seconds))}\u00a0s left`;
  }
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes}\u00a0min left` : `${Math.floor(minutes / 60)}\u00a0h ${minutes % 60}\u00a0min left`;
}

/** @param {string} name @returns {string} what stands on the little sheet of paper before a file's name */
function kind(name) {
  const extension = /\.(\w{1,4})$/.exec(name)?.[1] ?? '';
  return extension.toUpperCase();
}

// What is under way is remembered by name, size and time: a reloaded page has no access to the files any more, but can
// ask for them. It is only a convenience: where the browser does not let us, nothing is lost but the reminder.

/** @typedef {{ name: string, size: number, last_modified: number, upload_url: string }} Reminder */

/** @returns {Reminder[]} */
function reminders() {
  try {
    return JSON.parse(localStorage.getItem(UNDER_WAY) ?? '[]');
  } catch {
    return [];
  }
}

/** @param {Row} row @param {Reminder | null} reminder null: forget it */
function remind(row, reminder) {
  const others = reminders().filter((r) => !row.isOf(r));
  try {
    localStorage.setItem(UNDER_WAY, JSON.stringify(reminder ? [...others, reminder] : others));
  } catch {
    // Full, or not allowed.
  }
}

/** @type {Set<Row>} */
const rows = new Set();

/** The uploader's states in a word; @type {Record<string, string>} */
const WORDS = {
  idle: 'Waiting',
  asking: 'Connecting',
  creating: 'Connecting',
  sending: 'Uploading',
  reconnecting: 'Reconnecting',
  paused: 'Paused',
  arrived: 'Arrived',
  handing_over: 'Being handed over',
  cancelling: 'Cancelling',
  cancel_waiting: 'Cancelling',
  finished: 'Handed over',
  cancelled: 'Cancelled',
  refused: 'Refused',
  failed: 'Failed',
};

/** One file on its way. */
class Row {
  /** @type {File | null} null: known from before a reload */
  file = null;
  /** @type {any} the uploader, once there is a ticket */
  upload = null;
  state = 'queued';
  /** @type {{ at: number, bytes: number }[]} of the last seconds, to tell the speed */
  #marks = [];

  /** @param {{ name: string, size: number, last_modified: number }} described */
  constructor({ name, size: bytes, last_modified }) {
    this.name = name;
    this.bytes = bytes;
    this.last_modified = last_modified;
    this.element = copy('upload');
    $('.kind', this.element).textContent = kind(name);
    $('.name', this.element).textContent = $('.name', this.element).title = name;
    $('.pause', this.element).onclick = () => this.upload?.pause('pause');
    $('.resume', this.element).onclick = () => this.upload?.pause('unpause');
    $('.cancel', this.element).onclick = () => this.cancel();
    $('.again input', this.element).onchange = (/** @type {any} */ event) => add(event.target.files);
    rows.add(this);
    $('#uploads ul').append(this.element);
    this.show('queued', 'Waiting', size(bytes));
  }

  /** @param {{ name: string, size: number, last_modified: number }} file */
  isOf(file) {
    return file.name === this.name && file.size === this.bytes && file.last_modified === this.last_modified;
  }

  get ended() {
    return ['finished', 'cancelled', 'failed', 'refused'].includes(this.state);
  }

  /** It has a file and waits for its turn. */
  get ready() {
    return this.state === 'queued' && this.file !== null;
  }

  get active() {
    return !this.ended && !['queued', 'missing', 'paused', 'arrived', 'handing_over'].includes(this.state);
  }

  /**
   * @param {string} state for the style sheet and the tests
   * @param {string} words
   * @param {string} figures
   */
  show(state, words, figures = '') {
    this.state = this.element.dataset.state = state;
    const status = $('.state', this.element);
    if (status.textContent !== words) {
      status.textContent = words;
    }
    $('.figures', this.element).textContent = figures;
    overview();
  }

  /** Get a ticket, then upload. */
  async start() {
    const file = /** @type {File} */ (this.file);
    this.show('asking', 'Connecting', size(this.bytes));
    const answer = await fetch('/tickets', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ name: this.name, size: this.bytes, last_modified: this.last_modified }),
    }).catch(() => null);
    const ticket = await answer?.json().catch(() => null);
    if (answer?.status !== 201) {
      if (answer && answer.status < 500) {
        this.show('failed', 'Failed', ticket?.detail ?? 'The server does not say why.');
        next();
      } else {
        this.show('reconnecting', 'Reconnecting', ticket?.detail ?? 'The upload service does not answer.');
        setTimeout(() => this.state === 'reconnecting' && this.start(), TICKET_RETRY_MS);
      }
      return;
    }
    if (this.state === 'cancelled') {
      return;
    }
    const { name, bytes, last_modified } = this;
    remind(this, { name, size: bytes, last_modified, upload_url: ticket.upload_url });
    this.upload = incoming.Uploader(ticket.upload_url, file);
    this.upload.onprogress = () => this.follow();
    this.upload.onfinished = this.upload.oncancelled = this.upload.onerror = () => {
      remind(this, null);
      this.follow();
      next();
    };
    this.upload.start();
  }

  /** Show what the uploader tells. */
  follow() {
    const { upload } = this;
    $('progress', this.element).value = upload.frac_complete;
    $('.pause', this.element).hidden = !upload.can_pause || upload.paused;
    $('.resume', this.element).hidden = !upload.paused;
    $('.cancel', this.element).hidden = !upload.can_cancel;
    let { state } = upload;
    if (upload.error_code === 'refused') {
      state = 'refused';
    } else if (state === 'watching') {
      state = upload.handover_state === 'arrived' ? 'arrived' : 'handing_over';
    } else if (upload.state_msg.startsWith('reconnecting')) {
      state = 'reconnecting'; // also while it asks again
    }
    this.show(state, WORDS[state] ?? state, this.figures(state));
    if (['paused', 'arrived', 'handing_over'].includes(state)) {
      next();
    }
  }

  /** @param {string} state @returns {string} the line below the bar: how far, how fast, or why not */
  figures(state) {
    const { bytes_tx, bytes_total, error_msg, trouble_msg } = this.upload;
    const some = bytes_tx > 0 && bytes_tx < bytes_total ? `${size(bytes_tx)} of ${size(bytes_total)}` : size(bytes_total);
    if (state !== 'sending') {
      this.#marks = [];
      return error_msg || (trouble_msg ? `${some} · ${trouble_msg}` : some);
    }
    const now = performance.now();
    this.#marks = [...this.#marks.filter(({ at }) => now - at < 5000), { at: now, bytes: bytes_tx }];
    const [first] = this.#marks;
    const seconds = first ? (now - first.at) / 1000 : 0;
    const speed = first && seconds > 0.5 ? (bytes_tx - first.bytes) / seconds : 0;
    return speed > 0 ? [some, `${size(speed)}/s`, duration((bytes_total - bytes_tx) / speed)].join(' · ') : some;
  }

  cancel() {
    if (this.upload) {
      this.upload.cancel();
    } else {
      remind(this, null);
      this.show('cancelled', 'Cancelled', size(this.bytes));
      next();
    }
  }

  /** It was under way before the page was loaded anew: say how much is there, and ask for the file. */
  async ask(/** @type {string} */ upload_url) {
    this.show('missing', 'Interrupted', 'Drop the file again');
    const url = new URL(upload_url, $('script[src*="/incoming/"]').src);
    const status = await fetch(`${url}/status`).then((answer) => answer.json()).catch(() => null);
    if (this.state !== 'missing') {
      return;
    }
    if (status && status.status !== 'open') {
      remind(this, null); // it has arrived, or ended otherwise: nothing to ask for
      this.remove();
    } else if (status) {
      $('progress', this.element).value = this.bytes ? status.offset / this.bytes : 0;
      const kept = `${size(status.offset)} of ${size(this.bytes)} are safe`;
      this.show('missing', 'Interrupted', `${kept} · drop the file again`);
    }
    // Nobody has this upload in hand: cancelling it takes no file.
    $('.cancel', this.element).onclick = () => {
      this.upload ??= Object.assign(incoming.Uploader(url.href, new Blob()), { oncancelled: () => this.follow() });
      this.cancel();
      remind(this, null);
    };
  }

  remove() {
    rows.delete(this);
    this.element.remove();
    overview();
  }
}

/** Start what waits, as long as not too many are under way. */
function next() {
  for (const row of rows) {
    if (row.ready && [...rows].filter((r) => r.active).length < ACTIVE_MAX) {
      row.start();
    }
  }
}

/** What stands around the rows. */
function overview() {
  const all = [...rows];
  $('#uploads').hidden = all.length === 0;
  $('#clear').hidden = !all.some((row) => row.ended);
  const moving = all.filter((row) => row.active && row.upload);
  const total = moving.reduce((sum, row) => sum + row.bytes, 0);
  const sent = moving.reduce((sum, row) => sum + row.upload.bytes_tx, 0);
  document.title = total > 0 ? `${Math.floor((100 * sent) / total)} % · Photodrop` : 'Photodrop';
}

/** @param {Iterable<File>} files */
function add(files) {
  for (const file of files) {
    const described = { name: file.name, size: file.size, last_modified: file.lastModified };
    const known = [...rows].find((row) => row.isOf(described) && !row.ended);
    if (known?.file) {
      continue;
    }
    const row = known ?? new Row(described);
    row.file = file;
    row.show('queued', 'Waiting', size(row.bytes));
  }
  next();
}

/**
 * The files of a drop; folders are looked through.
 *
 * @param {DataTransfer} transfer
 */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry());
  /** @param {any} entry @returns {Promise<File[]>} */
  const filesOf = async (entry) => {
    if (entry?.isFile) {
      return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    }
    const found = [];
    const reader = entry?.isDirectory ? entry.createReader() : null;
    for (let some = [1]; reader && some.length > 0; ) {
      some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      found.push(...(await Promise.all(some.map(filesOf))).flat());
    }
    return found;
  };
  add((await Promise.all(entries.map(filesOf))).flat());
}

/** @param {{ id: string, name: string, size: number, sha256: string, at: number }[]} files */
function received(files) {
  $('#received .empty').hidden = files.length > 0;
  $('#received .count').textContent = files.length > 1 ? `${files.length} files` : '';
  const items = files.reverse().map((file) => {
    const item = copy('file');
    $('.kind', item).textContent = kind(file.name);
    const link = $('.name', item);
    link.textContent = link.title = file.name;
    link.href = `/files/${file.id}`;
    const time = new Date(file.at * 1000).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
    $('.state', item).textContent = `${size(file.size)} · ${time}`;
    $('.digest', item).textContent = file.sha256;
    return item;
  });
  $('#received ul').replaceChildren(...items);
}

const drop = $('#drop');
$('input', drop).onchange = (/** @type {any} */ event) => {
  add(event.target.files);
  event.target.value = ''; // the same file may be chosen again
};
for (const name of ['dragenter', 'dragover']) {
  addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add('over');
  });
}
addEventListener('dragleave', (event) => event.relatedTarget === null && drop.classList.remove('over'));
addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  if (event.dataTransfer) {
    dropped(event.dataTransfer);
  }
});
$('#clear').onclick = () => [...rows].filter((row) => row.ended).forEach((row) => row.remove());

if (typeof incoming === 'undefined') {
  $('#problem').textContent = 'The upload service does not answer. Is incomingd running? Then load this page again.';
  $('#problem').hidden = false;
}
for (const reminder of reminders()) {
  new Row(reminder).ask(reminder.upload_url);
}
new EventSource('/events').onmessage = (event) => received(JSON.parse(event.data));
