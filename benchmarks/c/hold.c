/* Slow clients: opens connections, sends the beginning of a body on each, and then a little every second.
 *
 * Usage: hold HOST PORT FIRST_BYTES SLOW_BYTES < plan
 *
 * The plan is that of load.c, with one request for each connection. Once FIRST_BYTES of every body have left it writes
 * "ready" and goes on with SLOW_BYTES a second on each connection. SIGTERM ends it. A server that answers or hangs up
 * meanwhile ends it with status 1.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <poll.h>
#include <signal.h>

#include "common.h"

static volatile sig_atomic_t ended;

static void end(int number) {
    (void)number;
    ended = 1;
}

static void send_all(int connection, const char *text, size_t size_bytes) {
    while (size_bytes) {
        ssize_t sent = send(connection, text, size_bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR && !ended) continue;
        if (sent < 0) die_errno("send");
        text += sent;
        size_bytes -= (size_t)sent;
    }
}

int main(int argc, char **argv) {
    if (argc != 5) die("usage: hold HOST PORT FIRST_BYTES SLOW_BYTES < plan");
    size_t first_bytes = strtoul(argv[3], NULL, 10), slow_bytes = strtoul(argv[4], NULL, 10);
    char *source = make_source((first_bytes > slow_bytes ? first_bytes : slow_bytes) + 8);
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    struct pollfd *clients = NULL;
    size_t count = 0, index, head_bytes;
    uint64_t body_bytes;
    int status, found;
    while ((found = scanf("%zu %zu %" SCNu64 " %d", &index, &head_bytes, &body_bytes, &status)) != EOF) {
        if (found != 4 || getchar() != '\n' || index != count) die("the plan is no plan");
        char *head = must(malloc(head_bytes));
        if (fread(head, 1, head_bytes, stdin) != head_bytes) die("the plan ends within a head");
        clients = must(realloc(clients, (count + 1) * sizeof *clients));
        clients[count] = (struct pollfd){.fd = connect_to(argv[1], argv[2]), .events = POLLIN};
        send_all(clients[count].fd, head, head_bytes);
        send_all(clients[count++].fd, source, first_bytes);
        free(head);
    }
    puts("ready");
    fflush(stdout);
    while (!ended) {
        struct timespec pause = {1, 0};
        nanosleep(&pause, NULL);
        if (ended) break;
        if (poll(clients, count, 0) > 0) die("the server answered, or hung up on, a slow client");
        for (size_t each = 0; each < count && !ended; each++) send_all(clients[each].fd, source, slow_bytes);
    }
    return 0;
}
