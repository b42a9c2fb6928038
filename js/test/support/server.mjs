// A real HTTP server that speaks as much tus and status as the library needs, and misbehaves when told to.

import { once } from 'node:events';
import { createServer } from 'node:http';

/**
 * What to do to one request instead of, or besides, answering it.
 *
 * @typedef {object} Fault
 * @property {number} [status] answer this, do nothing
 * @property {Record<string, string>} [headers] with that status
 * @property {object} [problem] body with that status
 * @property {number} [cut_after] keep this many bytes of the body, then cut the connection
 * @property {number} [freeze_after] keep this many bytes of the body, then read and answer nothing more
 * @property {number} [keep] read the whole body, keep only so many bytes of it, and say so
 * @property {boolean} [drop] cut the connection before anything is done
 * @property {boolean} [lose_answer] do it all, then cut the connection instead of answering
 * @property {Promise<unknown>} [hold] wait for this before anything is done
 * @property {Promise<unknown>} [hold_answer] do it all, then wait for this before answering
 */

/**
 * @typedef {object} Ticket
 * @property {string} status
 * @property {number | null} length
 * @property {string | null} metadata
 * @property {Buffer} bytes
 * @property {number} beginnings
 * @property {{ state: string, message?: string, client_data?: unknown } | null} handover
 * @property {{ code: string, message: string } | null} error
 */

const PREFIX = '/incoming/1.0/frontend/uploads/';

export class TestServer {
  /** @type {Map<string, Ticket>} */
  tickets = new Map();
  /** @type {{ method: string, path: string, headers: import('node:http').IncomingHttpHeaders }[]} */
  requests = [];
  /** @type {{ method: string, path: RegExp, fault: Fault }[]} */
  #faults = [];
  /** @type {import('node:http').Server | null} */
  #server = null;
  #port = 0;
  /** @type {Set<() => void>} */
  #holders = new Set();
  /** What becomes of a complete upload: states of the hand-over, each reached when asked once more. */
  handover_states = ['arrived', 'handing_over', 'done'];
  /** @type {unknown} */
  client_data = null;
  handover_message = '';

  async start() {
    const server = createServer((request, response) => {
      this.#handle(request, response).catch((error) => response.destroy(error));
    });
    this.#server = server;
    server.listen(this.#port, '127.0.0.1');
    await once(server, 'listening');
    this.#port = /** @type {import('node:net').AddressInfo} */ (server.address()).port;
    return this;
  }

  get base_url() {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Stop listening and cut every connection, as a killed process does. What is kept is kept. */
  async kill() {
    const server = this.#server;
    this.#server = null;
    if (server) {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    }
  }

  /** @param {string} id @param {Partial<Ticket>} [more] */
  ticket(id, more = {}) {
    /** @type {Ticket} */
    const ticket = {
      status: 'open',
      length: null,
      metadata: null,
      bytes: Buffer.alloc(0),
      beginnings: 0,
      handover: null,
      error: null,
      ...more,
    };
    this.tickets.set(id, ticket);
    return ticket;
  }

  /**
   * The next request of that method (and path) meets the fault.
   *
   * @param {string} method
   * @param {Fault} fault
   * @param {RegExp} [path]
   */
  next(method, fault, path = /./) {
    this.#faults.push({ method, path, fault });
    return this;
  }

  /** @param {string} method */
  count(method) {
    return this.requests.filter((request) => request.method === method).length;
  }

  /** Let the questions that are held be answered: something has changed. */
  changed() {
    for (const release of this.#holders) {
      release();
    }
    this.#holders.clear();
  }

  /**
   * @param {import('node:http').IncomingMessage} request
   * @param {import('node:http').ServerResponse} response
   */
  async #handle(request, response) {
    const { method = '', url = '', headers } = request;
    this.requests.push({ method, path: url, headers });
    const index = this.#faults.findIndex((f) => f.method === method && f.path.test(url));
    const fault = index < 0 ? {} : /** @type {{ fault: Fault }} */ (this.#faults.splice(index, 1)[0]).fault;
    await fault.hold;
    if (fault.drop) {
      request.socket.destroy();
      return;
    }
    if (fault.status !== undefined) {
      request.resume();
      this.#answer(response, fault.status, fault.headers, method === 'HEAD' ? undefined : fault.problem);
      return;
    }
    const { pathname, searchParams } = new URL(url, this.base_url);
    const [id = '', sub] = pathname.slice(PREFIX.length).split('/');
    const ticket = pathname.startsWith(PREFIX) ? this.tickets.get(id) : undefined;
    if (!ticket) {
      request.resume();
      return this.#refuse(response, method, 404, 'upload_unknown', 'There is no such upload.');
    }
    if (sub === 'status') {
      return this.#status(ticket, searchParams, response);
    }
    if (headers['tus-resumable'] !== '1.0.0') {
      return this.#refuse(response, method, 412, 'version', 'Tus-Resumable is missing.');
    }
    if (['cancelled', 'failed', 'expired', 'lost'].includes(ticket.status)) {
      request.resume();
      return this.#refuse(response, method, 410, 'upload_gone', 'The upload has ended.');
    }
    const [status, answer_headers = {}] = await this.#tus(ticket, request, fault);
    await fault.hold_answer;
    if (status === 403) {
      this.#refuse(response, method, 403, 'upload_complete', 'The upload is complete.');
    } else if (fault.lose_answer || status === 0) {
      request.socket.destroy();
    } else {
      this.#answer(response, status, answer_headers);
    }
    return undefined;
  }

  /**
   * @param {Ticket} ticket
   * @param {import('node:http').IncomingMessage} request
   * @param {Fault} fault
   * @returns {Promise<[number, Record<string, string>?]>} status 0: no answer
   */
  async #tus(ticket, request, fault) {
    const { method, headers } = request;
    const told = () => ({
      'Upload-Offset': String(ticket.bytes.length),
      ...(ticket.length !== null && { 'Upload-Length': String(ticket.length) }),
      ...(ticket.metadata !== null && { 'Upload-Metadata': ticket.metadata }),
    });
    switch (method) {
      case 'HEAD':
        return [200, told()];
      case 'POST': {
        const length = Number(headers['upload-length']);
        const metadata = String(headers['upload-metadata'] ?? '');
        if (ticket.status !== 'open') {
          return length === ticket.length && metadata === ticket.metadata ? [201, told()] : [403];
        }
        Object.assign(ticket, { length, metadata, bytes: Buffer.alloc(0), beginnings: ticket.beginnings + 1 });
        this.#kept(ticket);
        return [201, told()];
      }
      case 'PATCH': {
        if (Number(headers['upload-offset']) !== ticket.bytes.length || ticket.status !== 'open') {
          request.resume();
          return [409, told()];
        }
        let left = fault.cut_after ?? fault.freeze_after ?? fault.keep ?? Infinity;
        for await (const chunk of request) {
          ticket.bytes = Buffer.concat([ticket.bytes, chunk.subarray(0, left)]);
          left = Math.max(0, left - chunk.length);
          if (left === 0 && fault.cut_after !== undefined) {
            return [0];
          }
          if (left === 0 && fault.freeze_after !== undefined) {
            await once(request, 'close');
          }
        }
        this.#kept(ticket);
        return [204, told()];
      }
      case 'DELETE':
        if (ticket.status === 'handing_over') {
          return [423];
        }
        ticket.status = 'cancelled';
        return [204];
      default:
        return [405];
    }
  }

  /** @param {Ticket} ticket */
  #kept(ticket) {
    if (ticket.bytes.length === ticket.length) {
      ticket.status = 'complete';
      ticket.handover = { state: this.handover_states[0] ?? 'arrived' };
      this.changed();
    }
  }

  /**
   * @param {Ticket} ticket
   * @param {URLSearchParams} parameters
   * @param {import('node:http').ServerResponse} response
   */
  async #status(ticket, parameters, response) {
    if (parameters.has('wait_s')) {
      if (ticket.handover) {
        const at = this.handover_states.indexOf(ticket.handover.state);
        const state = this.handover_states[at + 1];
        if (state !== undefined) {
          ticket.handover = { state };
        } else if (!['done', 'refused'].includes(ticket.handover.state)) {
          await new Promise((resolve) => {
            this.#holders.add(() => resolve(undefined));
          });
        }
      }
    }
    const state = ticket.handover?.state;
    if (state === 'done') {
      ticket.status = 'finished';
    } else if (state === 'refused') {
      ticket.status = 'failed';
    }
    this.#answer(response, 200, {}, {
      status: ticket.status,
      offset: ticket.bytes.length,
      length: ticket.length,
      handover: ticket.handover && { message: this.handover_message, client_data: this.client_data, ...ticket.handover },
      error: ticket.error,
    });
  }

  /**
   * @param {import('node:http').ServerResponse} response
   * @param {string} method
   * @param {number} status
   * @param {string} code
   * @param {string} detail
   */
  #refuse(response, method, status, code, detail) {
    this.#answer(response, status, {}, method === 'HEAD' ? undefined : { status, code, detail });
  }

  /**
   * @param {import('node:http').ServerResponse} response
   * @param {number} status
   * @param {Record<string, string>} [headers]
   * @param {object} [body]
   */
  #answer(response, status, headers = {}, body) {
    response.writeHead(status, {
      'Tus-Resumable': '1.0.0',
      ...(body && { 'Content-Type': 'application/json' }),
      ...headers,
    });
    response.end(body ? JSON.stringify(body) : undefined);
  }
}
