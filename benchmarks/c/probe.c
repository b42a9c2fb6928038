/* Asks a server the same small question again and again, beside the load, and says how long the answers took.
 *
 * Usage: probe HOST PORT INTERVAL_MS < head
 *
 * The head (of a HEAD request) goes out on one kept connection every INTERVAL_MS; a late answer delays no later
 * question's clock: each counts from when it was due, so that a stall of a second is seen as all the questions that it
 * would have kept waiting. SIGTERM ends it. One JSON object on standard output: count, p50_ms, p90_ms, p99_ms, max_ms,
 * realtime (whether the kernel let it run ahead of the load on their common core; without, it measures that too).
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>

#include "common.h"

enum { HEAD_BYTES = 8 << 10, ANSWER_BYTES = 16 << 10 };

static volatile sig_atomic_t ended;

static void end(int number) {
    (void)number;
    ended = 1;
}

static int ascending(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

int main(int argc, char **argv) {
    static char head[HEAD_BYTES], answer[ANSWER_BYTES];
    if (argc != 4) die("usage: probe HOST PORT INTERVAL_MS < head");
    double interval_s = atof(argv[3]) / 1000;
    size_t head_bytes = fread(head, 1, HEAD_BYTES, stdin);
    struct sched_param first = {.sched_priority = 1};
    int realtime = sched_setscheduler(0, SCHED_FIFO, &first) == 0;
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    int connection = connect_to(argv[1], argv[2]);
    size_t count = 0, size = 1 << 16;
    double *took_ms = must(malloc(size * sizeof *took_ms));
    double due_s = now_s();
    while (!ended) {
        double wait_s = due_s - now_s();
        if (wait_s > 0) {
            struct timespec pause = {(time_t)wait_s, (long)((wait_s - (double)(time_t)wait_s) * 1e9)};
            nanosleep(&pause, NULL);
            if (ended) break;
        }
        if (send(connection, head, head_bytes, MSG_NOSIGNAL) != (ssize_t)head_bytes) die_errno("send");
        size_t have = 0;
        do {
            ssize_t got = recv(connection, answer + have, ANSWER_BYTES - 1 - have, 0);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) die("the server closed the connection");
            have += (size_t)got;
            answer[have] = 0;
        } while (answer_length(answer, have, 1) == 0);
        if (answer_status(answer) != 200 && answer_status(answer) != 204) die(answer);
        if (count == size) took_ms = must(realloc(took_ms, (size *= 2) * sizeof *took_ms));
        took_ms[count++] = (now_s() - due_s) * 1000;
        due_s += interval_s;
    }
    if (count == 0) die("no answer at all");
    qsort(took_ms, count, sizeof *took_ms, ascending);
    printf("{\"count\": %zu, \"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"realtime\": %s}\n",
           count, took_ms[count / 2], took_ms[count * 9 / 10], took_ms[count * 99 / 100], took_ms[count - 1],
           realtime ? "true" : "false");
    return 0;
}
