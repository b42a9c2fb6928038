// The small parts: waits, metadata, addresses, answers.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { baseUrlOfHost, checkedBaseUrl, defaultBaseUrl, uploadUrl } from '../src/address.js';
import { backoff_ms, retryAfter_ms } from '../src/backoff.js';
import { TIMES, sleep } from '../src/environment.js';
import { describeFile, sameMetadata } from '../src/metadata.js';
import { problemOf, verdict } from '../src/problem.js';
import { readStatus } from '../src/status.js';

describe('the wait before another try', () => {
  test('is between 0.15 and 0.3 s first, doubles, and ends between 5 and 10 s', () => {
    const spans = [0, 1, 2, 5, 6, 1000].map((n) => [backoff_ms(n, null, 0, TIMES), backoff_ms(n, null, 1, TIMES)]);
    assert.deepEqual(spans, [
      [150, 300],
      [300, 600],
      [600, 1200],
      [4800, 9600],
      [5000, 10000],
      [5000, 10000],
    ]);
  });

  test('is never shorter than what the server asks for, and not endless', () => {
    assert.ok(backoff_ms(0, 7000, 0, TIMES) >= 7000);
    assert.ok(backoff_ms(0, 7000, 0.999, TIMES) > 7000, 'with jitter: others were told the same');
    assert.ok(backoff_ms(9, 1000, 0, TIMES) >= 5000, 'own back-off goes on below');
    assert.ok(backoff_ms(0, 1e12, 0, TIMES) <= 600_000);
  });

  test('is none where the server says so, but not again and again', () => {
    assert.equal(backoff_ms(0, 0, 0.5, TIMES), 0);
    assert.equal(backoff_ms(1, 0, 0.5, TIMES), 0);
    assert.ok(backoff_ms(2, 0, 0, TIMES) > 0);
  });

  test('Retry-After is seconds or a date', () => {
    const now_ms = Date.UTC(2030, 0, 1, 12, 0, 0);
    assert.equal(retryAfter_ms('3', now_ms), 3000);
    assert.equal(retryAfter_ms('0', now_ms), 0);
    assert.equal(retryAfter_ms('Tue, 01 Jan 2030 12:00:05 GMT', now_ms), 5000);
    assert.equal(retryAfter_ms('Tue, 01 Jan 2030 11:00:00 GMT', now_ms), 0);
    for (const none of [null, '', ' ', 'soon']) {
      assert.equal(retryAfter_ms(none, now_ms), null);
    }
  });

  test('ends early when its signal does, also if that was before', async () => {
    await sleep(3_600_000, AbortSignal.abort());
    const ended = new AbortController();
    const asleep = sleep(3_600_000, ended.signal);
    ended.abort();
    await asleep;
  });
});

describe('metadata', () => {
  test('is the same whatever the order and the blanks, and another where a value differs', () => {
    assert.ok(sameMetadata('a MQ==,b Mg==', 'b Mg== , a MQ=='));
    assert.ok(sameMetadata('', ' '));
    assert.ok(!sameMetadata('a MQ==,b Mg==', 'a MQ=='));
    assert.ok(!sameMetadata('a MQ==', 'a Mg=='));
    assert.ok(!sameMetadata('', 'a Mg=='));
  });

  test('leaves out a path that is too long for the server, and stays within its limit', () => {
    const file = new File(['x'], 'x.bin', { lastModified: 5 });
    Object.defineProperty(file, 'webkitRelativePath', { value: 'd/'.repeat(5000) });
    assert.equal(describeFile(file), `filename ${btoa('x.bin')},lastModified ${btoa('5')}`);
  });

  test('says nothing of a bare Blob', () => {
    assert.equal(describeFile(new Blob(['x'])), '');
  });
});

describe('addresses', () => {
  test('the default is the origin that the library was loaded from', () => {
    assert.equal(defaultBaseUrl('https://up.example.org:444/incoming/1.0/frontend/incoming.js?v=1'), 'https://up.example.org:444');
    assert.equal(defaultBaseUrl(''), '');
    assert.equal(defaultBaseUrl('file:///x/incoming.js'), '');
    assert.equal(defaultBaseUrl('blob:https://a.example/7'), '');
  });

  test('a base URL may have a path, a host has a scheme from where it is', () => {
    assert.equal(checkedBaseUrl('https://a.example/up/?x=1#y'), 'https://a.example/up');
    assert.equal(baseUrlOfHost('b.example:4000', 'https://a.example'), 'https://b.example:4000');
    assert.equal(baseUrlOfHost('[::1]:4000', ''), 'http://[::1]:4000');
  });

  test('nonsense is refused', () => {
    for (const bad of ['', 'a.example', '/x', 'ws://a.example', 7, undefined]) {
      assert.throws(() => checkedBaseUrl(/** @type {any} */ (bad)), TypeError, String(bad));
    }
    for (const bad of ['', 'http://a.example', 'a.example/x', 'u@a.example', 'a b', 7, undefined]) {
      assert.throws(() => baseUrlOfHost(/** @type {any} */ (bad), ''), TypeError, String(bad));
    }
  });

  test('a ticket is an id, a path or a URL', () => {
    const base = 'https://a.example/up';
    assert.equal(uploadUrl('A_b-9', base), 'https://a.example/up/incoming/1.0/frontend/uploads/A_b-9');
    assert.equal(uploadUrl('/incoming/1.0/frontend/uploads/x', 'https://a.example'), 'https://a.example/incoming/1.0/frontend/uploads/x');
    assert.equal(uploadUrl('https://b.example/incoming/1.0/frontend/uploads/x/', ''), 'https://b.example/incoming/1.0/frontend/uploads/x');
    assert.throws(() => uploadUrl('x', ''), /set_server_hostname/);
  });
});

describe('answers', () => {
  /** @param {number} status @param {string} [text] @param {Record<string, string>} [headers] */
  const answer = (status, text = '', headers = {}) => ({ status, text, header: (/** @type {string} */ name) => headers[name] ?? null });

  test('each status is a success, passes, or is final', () => {
    const by = { ok: [200, 201, 204], passing: [0, 100, 301, 408, 409, 423, 425, 429, 460, 500, 502, 503, 504, 507], final: [400, 401, 403, 404, 410, 412, 413, 415, 451] };
    for (const [what, statuses] of Object.entries(by)) {
      for (const status of statuses) {
        assert.equal(verdict(answer(status)), what, String(status));
      }
    }
  });

  test('a problem document gives its code and detail; other bodies give none', () => {
    const document = JSON.stringify({ title: 'T', status: 413, code: 'too_long', detail: 'D' });
    assert.deepEqual(problemOf(answer(413, document), 0), { code: 'too_long', message: 'D', retry_after_ms: null });
    for (const text of ['', '<html>', '[]', 'null', '"x"', '{"code":5,"detail":{}}']) {
      const { code, message } = problemOf(answer(502, text), 0);
      assert.equal(code, 'http_502');
      assert.equal(message, 'The server answered with status 502.');
    }
  });

  test('a 409 may be followed at once', () => {
    assert.equal(problemOf(answer(409), 0).retry_after_ms, 0);
    assert.equal(problemOf(answer(409, '', { 'Retry-After': '2' }), 0).retry_after_ms, 2000);
  });

  test('a status document that is none is recognised', () => {
    for (const text of ['', '<html>', '{}', '{"status":7}', '[]']) {
      assert.equal(readStatus(text, 10), null);
    }
  });

  test('a status document is taken for what it says, also where it says little', () => {
    /** @param {object} document */
    const event = (document) => readStatus(JSON.stringify(document), 10)?.outcome?.event ?? null;
    assert.equal(event({ status: 'open', offset: 3 }), 'ask');
    assert.equal(event({ status: 'open', offset: 10 }), null);
    assert.equal(event({ status: 'complete', offset: 10, handover: { state: 'arrived' } }), null);
    assert.equal(event({ status: 'awaiting_app', offset: 10, handover: { state: 'waiting' } }), null);
    assert.equal(event({ status: 'finished' }), 'done');
    assert.equal(event({ status: 'failed', handover: { state: 'refused' } }), 'fail');
    assert.equal(event({ status: 'cancelled' }), 'ended');
    assert.equal(event({ status: 'expired' }), 'fail');
    assert.equal(event({ status: 'from the future' }), null);
  });
});
