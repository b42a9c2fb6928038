/* What the programs of the benchmarks share: ends with a word, clocks, connections, answers. */
#ifndef COMMON_H
#define COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

__attribute__((noreturn, unused)) static void die(const char *why) {
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, why);
    exit(1);
}

__attribute__((noreturn, unused)) static void die_errno(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

__attribute__((unused)) static void *must(void *memory) {
    if (memory == NULL) die("no memory");
    return memory;
}

__attribute__((unused)) static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Processor time of this process so far. */
__attribute__((unused)) static double cpu_s(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* Bytes that nothing compresses, the same in each run. */
__attribute__((unused)) static char *make_source(size_t size_bytes) {
    uint64_t *words = must(malloc(size_bytes));
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (size_t index = 0; index < size_bytes / sizeof state; index++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[index] = state;
    }
    return (char *)words;
}

__attribute__((unused)) static struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("the host must be an IPv4 address");
    return address;
}

__attribute__((unused)) static int connect_to(const char *host, const char *port) {
    struct sockaddr_in address = address_of(host, port);
    int on = 1, made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made < 0) die_errno("socket");
    if (connect(made, (struct sockaddr *)&address, sizeof address) < 0) die_errno("connect");
    setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return made;
}

/* The status of an answer that begins at text. */
__attribute__((unused)) static int answer_status(const char *text) {
    int status = 0;
    if (sscanf(text, "HTTP/1.%*1[01] %3d", &status) != 1) die("this is no HTTP/1.1 answer");
    return status;
}

/* The value of a header in a head that ends with an empty line; NULL where it is not there. */
__attribute__((unused)) static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0 && line[2 + length] == ':') return line + 3 + length;
    return NULL;
}

/* How many bytes the answer in text takes, its body included; 0: it is not whole yet. to_head: of a HEAD, so no body. */
__attribute__((unused)) static size_t answer_length(const char *text, size_t size_bytes, int to_head) {
    const char *end = memmem(text, size_bytes, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t head_bytes = (size_t)(end - text) + 4;
    int status = answer_status(text);
    if (to_head || status == 100 || status == 204 || status == 304) return head_bytes;
    const char *coding = header(text, "Transfer-Encoding");
    if (coding != NULL && coding < end) {
        const char *last = memmem(end + 2, size_bytes - head_bytes + 2, "\r\n0\r\n\r\n", 7);
        return last == NULL ? 0 : (size_t)(last - text) + 7;
    }
    const char *length = header(text, "Content-Length");
    size_t body_bytes = length != NULL && length < end ? strtoul(length, NULL, 10) : 0;
    return head_bytes + body_bytes <= size_bytes ? head_bytes + body_bytes : 0;
}

#endif
