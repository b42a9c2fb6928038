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
export const STATES = {
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
export const TRANSITIONS = {
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
export function nextState(state, event) {
  const next = TRANSITIONS[state][event];
  if (next === undefined) {
    throw new Error(`incoming: "${event}" cannot happen while ${state}`);
  }
  return next;
}
