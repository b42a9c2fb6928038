// One upload: drives the state machine of states.js with the server's answers.

import { Announcer } from './announcer.js';
import { backoff_ms } from './backoff.js';
import { describeFile, sameMetadata } from './metadata.js';
import { NO_ANSWER, STRANGE_ANSWER, verdict } from './problem.js';
import { Resource, bytesIn } from './resource.js';
import { STATES, nextState } from './states.js';
import { readStatus } from './status.js';

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
export class Upload {
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
