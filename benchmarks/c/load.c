/* The load generator: plays prepared HTTP/1.1 requests over many connections and says how long that took.
 *
 * Usage: load HOST PORT [TIMEOUT_S] < plan
 *
 * The plan is a run of records: a line "CONNECTION HEAD_BYTES BODY_BYTES STATUS\n" and then HEAD_BYTES bytes, the head
 * of one request as it goes out. CONNECTION counts from 0; its requests are sent one after the other on one kept
 * connection, each after the answer to the one before. STATUS is the answer that is expected; any other ends the run.
 *
 * Bodies leave by send() from ordinary memory. A generator that uses sendfile() hands the receiver pages that nobody
 * copies twice, which real clients at the other end of a wire do not, and so flatters every server.
 *
 * One JSON object on standard output: elapsed_s from the first byte until the last answer, body_bytes, requests, cpu_s
 * of this process. Errors go to standard error, and the status is 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common.h"

enum { SOURCE_BYTES = 4 << 20, SEND_BYTES = 256 << 10, ANSWER_BYTES = 16 << 10, TURN_SENDS = 4 };

struct request {
    char *head;
    size_t head_bytes;
    uint64_t body_bytes;
    int status;
};

struct connection {
    int socket;
    struct request *requests;
    size_t count, size, current;
    size_t head_sent;
    uint64_t body_sent;
    char answer[ANSWER_BYTES];
    size_t answer_bytes;
    uint32_t events;
};

static struct connection *connections;
static size_t connection_count;
static char *source;
static int poller;

static void read_plan(FILE *plan) {
    size_t index, head_bytes;
    uint64_t body_bytes;
    int status;
    for (;;) {
        int found = fscanf(plan, "%zu %zu %" SCNu64 " %d", &index, &head_bytes, &body_bytes, &status);
        if (found == EOF) break;
        if (found != 4 || getc(plan) != '\n') die("the plan is no plan");
        if (index >= connection_count) {
            connections = must(realloc(connections, (index + 1) * sizeof *connections));
            memset(connections + connection_count, 0, (index + 1 - connection_count) * sizeof *connections);
            connection_count = index + 1;
        }
        struct connection *owner = &connections[index];
        if (owner->count == owner->size) {
            owner->size = owner->size ? 2 * owner->size : 4;
            owner->requests = must(realloc(owner->requests, owner->size * sizeof *owner->requests));
        }
        struct request *request = &owner->requests[owner->count++];
        *request = (struct request){must(malloc(head_bytes + 1)), head_bytes, body_bytes, status};
        if (fread(request->head, 1, head_bytes, plan) != head_bytes) die("the plan ends within a head");
        request->head[head_bytes] = 0;
    }
    if (connection_count == 0) die("the plan is empty");
}

static void want(struct connection *connection, uint32_t events) {
    if (connection->events == events) return;
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(poller, connection->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, connection->socket, &event) < 0)
        die_errno("epoll_ctl");
    connection->events = events;
}

/* Sends what the socket takes, but no more than a turn: no connection waits long for the others. */
static void send_some(struct connection *connection) {
    struct request *request = &connection->requests[connection->current];
    for (int turn = 0; turn < TURN_SENDS; turn++) {
        ssize_t sent;
        if (connection->head_sent < request->head_bytes) {
            sent = send(connection->socket, request->head + connection->head_sent,
                        request->head_bytes - connection->head_sent,
                        MSG_DONTWAIT | MSG_NOSIGNAL | (request->body_bytes ? MSG_MORE : 0));
            if (sent >= 0) connection->head_sent += (size_t)sent;
        } else {
            uint64_t left = request->body_bytes - connection->body_sent;
            if (left == 0) break;
            size_t at = connection->body_sent % SOURCE_BYTES;
            size_t size = left < SEND_BYTES ? (size_t)left : SEND_BYTES;
            if (size > SOURCE_BYTES - at) size = SOURCE_BYTES - at;
            sent = send(connection->socket, source + at, size, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent >= 0) connection->body_sent += (uint64_t)sent;
        }
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR) return;
            /* The server's answer tells why it hung up; it is read next. */
            want(connection, EPOLLIN);
            return;
        }
    }
    if (connection->head_sent == request->head_bytes && connection->body_sent == request->body_bytes)
        want(connection, EPOLLIN);
}

/* Reads of an answer; returns 1 once the connection has nothing left to do. */
static int read_some(struct connection *connection) {
    struct request *request = &connection->requests[connection->current];
    ssize_t got = recv(connection->socket, connection->answer + connection->answer_bytes,
                       ANSWER_BYTES - 1 - connection->answer_bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got < 0) die_errno("the server broke off: recv");
    if (got == 0) die("the server closed the connection before it answered");
    connection->answer_bytes += (size_t)got;
    connection->answer[connection->answer_bytes] = 0;
    size_t whole = answer_length(connection->answer, connection->answer_bytes, 0);
    if (whole == 0) {
        if (connection->answer_bytes == ANSWER_BYTES - 1) die("an answer is too long");
        return 0;
    }
    int status = answer_status(connection->answer);
    if (status == 100) {
        memmove(connection->answer, connection->answer + whole, connection->answer_bytes - whole);
        connection->answer_bytes -= whole;
        return 0;
    }
    if (status != request->status) {
        fprintf(stderr, "load: %d instead of %d:\n%.*s\n-- to --\n%.200s\n", status, request->status, (int)whole,
                connection->answer, request->head);
        exit(1);
    }
    if (connection->body_sent != request->body_bytes) die("the server answered before it had the body");
    connection->answer_bytes = 0;
    connection->head_sent = 0;
    connection->body_sent = 0;
    if (++connection->current == connection->count) {
        close(connection->socket);
        return 1;
    }
    want(connection, EPOLLIN | EPOLLOUT);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) die("usage: load HOST PORT [TIMEOUT_S] < plan");
    double timeout_s = argc > 3 ? atof(argv[3]) : 300;
    read_plan(stdin);
    source = make_source(SOURCE_BYTES);
    poller = epoll_create1(EPOLL_CLOEXEC);
    uint64_t body_bytes = 0, requests = 0;
    size_t open = 0;
    for (size_t index = 0; index < connection_count; index++) {
        struct connection *connection = &connections[index];
        if (connection->count == 0) continue;
        connection->socket = connect_to(argv[1], argv[2]);
        for (size_t each = 0; each < connection->count; each++) body_bytes += connection->requests[each].body_bytes;
        requests += connection->count;
        open++;
    }
    double start_s = now_s();
    for (size_t index = 0; index < connection_count; index++)
        if (connections[index].count) want(&connections[index], EPOLLIN | EPOLLOUT);
    struct epoll_event events[256];
    while (open) {
        int count = epoll_wait(poller, events, 256, 1000);
        if (count < 0 && errno != EINTR) die_errno("epoll_wait");
        if (now_s() - start_s > timeout_s) die("the time is up");
        for (int each = 0; each < count; each++) {
            struct connection *connection = events[each].data.ptr;
            if (events[each].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                if (read_some(connection)) {
                    open--;
                    continue;
                }
            }
            if (events[each].events & EPOLLOUT && connection->events & EPOLLOUT) send_some(connection);
        }
    }
    double elapsed_s = now_s() - start_s;
    printf("{\"elapsed_s\": %.6f, \"body_bytes\": %" PRIu64 ", \"requests\": %" PRIu64 ", \"cpu_s\": %.6f}\n",
           elapsed_s, body_bytes, requests, cpu_s());
    return 0;
}
