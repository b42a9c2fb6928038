/* The yardstick: an HTTP server that does nothing but move bodies from the socket to a file by splice().
 *
 * Usage: sink PORT FOLDER
 *
 * A PUT, PATCH or POST with a Content-Length becomes the file FOLDER/<last part of the path>, and is answered 204 once
 * all of it is there. HEAD is answered 200. There is no check, no log, no limit and no second thread: what it costs is
 * what this kernel asks for moving the bytes, and what a server that does more is measured against.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "common.h"

enum { HEAD_BYTES = 16 << 10, PIPE_BYTES = 1 << 20, TURN_MOVES = 8 };

struct client {
    int socket, file;
    uint64_t left;
};

static int poller, pipe_out, pipe_in;
static size_t pipe_bytes;
static const char *folder;

static void hang_up(struct client *client) {
    if (client->file >= 0) close(client->file);
    close(client->socket);
    free(client);
}

static int answer(struct client *client, const char *text) {
    return send(client->socket, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text) ? 0 : -1;
}

static int done(struct client *client) {
    close(client->file);
    client->file = -1;
    return answer(client, "HTTP/1.1 204 No Content\r\n\r\n");
}

/* Takes the next head off the socket, and not a byte of the body; -1 ends the connection. */
static int begin(struct client *client) {
    static char head[HEAD_BYTES];
    ssize_t seen = recv(client->socket, head, HEAD_BYTES - 1, MSG_PEEK | MSG_DONTWAIT);
    if (seen < 0) return errno == EAGAIN ? 0 : -1;
    if (seen == 0) return -1;
    head[seen] = 0;
    char *end = strstr(head, "\r\n\r\n");
    if (end == NULL) return seen < HEAD_BYTES - 1 ? 0 : -1;
    size_t head_bytes = (size_t)(end - head) + 4;
    if (recv(client->socket, head, head_bytes, 0) != (ssize_t)head_bytes) return -1;
    head[head_bytes] = 0;
    if (strncmp(head, "HEAD ", 5) == 0) return answer(client, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    const char *length = header(head, "Content-Length");
    char *path = strchr(head, ' ');
    char *path_end = path ? strchr(path + 1, ' ') : NULL;
    if (length == NULL || path_end == NULL) return -1;
    client->left = strtoull(length, NULL, 10);
    *path_end = 0;
    char name[HEAD_BYTES + 256];
    snprintf(name, sizeof name, "%s/%s", folder, strrchr(path, '/') + 1);
    client->file = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    if (client->file < 0) return -1;
    /* A further request to the same path goes on behind what is there. */
    lseek(client->file, 0, SEEK_END);
    return client->left == 0 ? done(client) : 0;
}

/* Moves what has arrived, but no more than a turn; -1 ends the connection. */
static int move(struct client *client) {
    for (int turn = 0; turn < TURN_MOVES && client->left; turn++) {
        size_t size = client->left < pipe_bytes ? (size_t)client->left : pipe_bytes;
        ssize_t taken = splice(client->socket, NULL, pipe_in, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (taken < 0) return errno == EAGAIN ? 0 : -1;
        if (taken == 0) return -1;
        for (ssize_t rest = taken; rest > 0;) {
            ssize_t kept = splice(pipe_out, NULL, client->file, NULL, (size_t)rest, SPLICE_F_MOVE);
            if (kept <= 0) die_errno("splice to the file");
            rest -= kept;
        }
        client->left -= (uint64_t)taken;
    }
    return client->left == 0 ? done(client) : 0;
}

int main(int argc, char **argv) {
    if (argc != 3) die("usage: sink PORT FOLDER");
    folder = argv[2];
    int ends[2], on = 1;
    if (pipe2(ends, O_CLOEXEC) < 0) die_errno("pipe");
    pipe_out = ends[0];
    pipe_in = ends[1];
    fcntl(pipe_in, F_SETPIPE_SZ, PIPE_BYTES);
    pipe_bytes = (size_t)fcntl(pipe_in, F_GETPIPE_SZ);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = address_of("127.0.0.1", argv[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die_errno("bind");
    if (listen(listener, 1024) < 0) die_errno("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    struct epoll_event events[256];
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        for (int each = 0; each < count; each++) {
            struct client *client = events[each].data.ptr;
            if (client == NULL) {
                int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (accepted < 0) continue;
                setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                client = must(malloc(sizeof *client));
                *client = (struct client){accepted, -1, 0};
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = client};
                epoll_ctl(poller, EPOLL_CTL_ADD, accepted, &event);
            } else if ((client->file < 0 ? begin(client) : move(client)) < 0) {
                hang_up(client);
            }
        }
    }
}
