// The table of states is sound: everything is reachable, everything ends, nothing illegal goes through.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { STATES, TRANSITIONS, nextState } from '../src/states.js';

/** @typedef {import('../src/states.js').State} State */
/** @typedef {import('../src/states.js').EventName} EventName */

const states = /** @type {State[]} */ (Object.keys(STATES));
const events = /** @type {EventName[]} */ ([...new Set(states.flatMap((state) => Object.keys(TRANSITIONS[state])))]);

/** @param {State} from @returns {Set<State>} */
function reachable(from) {
  const seen = new Set([from]);
  for (const state of seen) {
    for (const next of Object.values(TRANSITIONS[state])) {
      seen.add(next);
    }
  }
  return seen;
}

test('every state is reached from idle', () => {
  assert.deepEqual(reachable('idle'), new Set(states));
});

test('every state that is not final can end in each of the final states', () => {
  const final = states.filter((state) => STATES[state].final);
  for (const state of states.filter((s) => !STATES[s].final)) {
    for (const end of final) {
      assert.ok(reachable(state).has(end), `${state} never becomes ${end}`);
    }
  }
});

test('nothing leads out of a final state', () => {
  for (const state of states) {
    assert.equal(Object.keys(TRANSITIONS[state]).length === 0, STATES[state].final, state);
  }
});

test('the flags say what the table allows', () => {
  for (const state of states) {
    const { pause, unpause, cancel } = TRANSITIONS[state];
    assert.equal(pause !== undefined || unpause !== undefined, STATES[state].can_pause, `${state}: can_pause`);
    assert.equal(cancel !== undefined, STATES[state].can_cancel, `${state}: can_cancel`);
  }
});

test('an event that the table does not know for a state is an error that names both', () => {
  for (const state of states) {
    for (const event of events) {
      const next = TRANSITIONS[state][event];
      if (next === undefined) {
        assert.throws(() => nextState(state, event), { message: `incoming: "${event}" cannot happen while ${state}` });
      } else {
        assert.equal(nextState(state, event), next);
      }
    }
  }
});
