/*
 * The fastest server to come back: bound to its port before anything else, in its first fraction of a millisecond.
 *
 * A crash is guarded if the gate of the dead process closes before the new one can accept, so the guard is raced
 * against this. Built statically (nothing to load at start), it binds, listens, and only then reads the rest of its
 * arguments.
 *
 *     binder --port 8000 [--stamp 9000] [--warm-after 3]
 *
 * --stamp:      tells the UDP port there, on loopback, "PID PORT BEGAN LISTENING\n": the times are nanoseconds on
 *               CLOCK_MONOTONIC, of the begin of main() and of the return of listen().
 * --warm-after: so many requests for paths that begin with /warm make it warm; without it, it is so at once.
 *
 * Every request is answered with 200, its pid and whether it was warm ("X-Pid", "X-Cold"), on a connection of its own.
 * One connection at a time is served, and none for longer than PATIENCE: it is for short requests.
 */

#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 511, LONGEST_HEAD = 8192, PATIENCE = 2 /* seconds */ };

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* The number after this option, or ``otherwise``. */
static long option(int count, char **arguments, const char *name, long otherwise)
{
    for (int i = 1; i + 1 < count; i++)
        if (strcmp(arguments[i], name) == 0)
            return strtol(arguments[i + 1], NULL, 10);
    return otherwise;
}

static struct sockaddr_in loopback(long port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int listening(long port)
{
    struct sockaddr_in address = loopback(port);
    int one = 1;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (listen(server, BACKLOG) < 0)
        fail("listen");
    return server;
}

static void stamp(long to, long port, long long began, long long listened)
{
    struct sockaddr_in address = loopback(to);
    char line[100];
    int length = snprintf(line, sizeof line, "%d %ld %lld %lld\n", (int)getpid(), port, began, listened);
    int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sendto(sender, line, (size_t)length, 0, (struct sockaddr *)&address, sizeof address);
    close(sender);
}

/* What the head of a request says of the length of its body; 0 if nothing. */
static long body_length(const char *head)
{
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, "Content-Length:", 15) == 0)
            return strtol(line + 17, NULL, 10);
    return 0;
}

/* Read one request to its end: an unread rest would turn the close of the connection into a reset. 0: it broke off. */
static int whole_request(int client, char *head)
{
    char rest[LONGEST_HEAD], *end;
    long have = 0, got;

    do {
        got = read(client, head + have, (size_t)(LONGEST_HEAD - 1 - have));
        if (got <= 0)
            return 0;
        have += got;
        head[have] = '\0';
        end = strstr(head, "\r\n\r\n");
    } while (!end);
    for (long left = body_length(head) - (have - (end + 4 - head)); left > 0; left -= got) {
        got = read(client, rest, sizeof rest);
        if (got <= 0)
            return 0;
    }
    return 1;
}

static int is_for_warming(const char *head)
{
    const char *path = strchr(head, ' ');
    return path && strncmp(path + 1, "/warm", 5) == 0;
}

static void answer(int client, int is_cold)
{
    char body[20], text[300];
    int length = snprintf(body, sizeof body, "%d\n", (int)getpid());
    int all = snprintf(text, sizeof text,
                       "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
                       "X-Pid: %d\r\nX-Cold: %d\r\n\r\n%s",
                       length, (int)getpid(), is_cold, body);
    (void)!write(client, text, (size_t)all); /* a client that went away is none of our business */
}

int main(int count, char **arguments)
{
    long long began = now();
    long port = option(count, arguments, "--port", 0); /* 0, as ever: any */
    int server = listening(port);
    long long listened = now();
    long stamps = option(count, arguments, "--stamp", 0);
    long to_warm = option(count, arguments, "--warm-after", 0);
    struct timeval patience = {.tv_sec = PATIENCE};
    char head[LONGEST_HEAD];

    signal(SIGPIPE, SIG_IGN);
    if (stamps)
        stamp(stamps, port, began, listened);
    for (;;) {
        int client = accept4(server, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0)
            continue;
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (whole_request(client, head)) {
            int is_cold = to_warm > 0;
            if (is_cold && is_for_warming(head))
                to_warm--;
            answer(client, is_cold);
        }
        close(client);
    }
}
