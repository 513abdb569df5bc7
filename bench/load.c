/* load - the MTA's side of the milter protocol (version 6), as fast as it goes.
 *
 * Feeds prepared messages to a milter over several connections at once and prints one JSON
 * object: rate, latency percentiles, the CPU time that the milter's processes used, and which
 * DKIM result each message was given against the one that its file name promises
 * ("x.pass.eml", "x.fail.eml").
 *
 *   load -s unix:PATH|inet:PORT@ADDRESS [-c connections] [-n messages] [-m messages per
 *        connection] [-p pid,pid,...] [-t seconds] [-H] FILE|DIRECTORY...
 *
 * How it works: every message is encoded once into packets. A connection walks them, leaves out
 * the steps the milter declined (NO*), does not wait where it promised no answer (NR_*), and
 * gathers everything up to the next awaited answer into one writev, as Postfix's stream buffers
 * do. Over TCP the envelope goes out by itself and Nagle's algorithm stays on: Postfix's smtpd
 * writes the one, its cleanup the rest, and neither turns it off. CPU time is read from /proc/PID/stat before the first message and after the last one,
 * once the figures have stood still: a recorder that works behind the answer is counted.
 *
 * -H holds every connection half-way through its body until all are there, and prints the
 * memory (PSS, shared pages counted once) of the processes at that moment.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Which protocol bits let a milter decline a step, or answer it with silence (mfdef.h). */
static const struct step { char command; uint32_t declined, silent; } STEPS[] = {
    {'C', 0x1, 0x1000}, {'H', 0x2, 0x2000},  {'M', 0x4, 0x4000},   {'R', 0x8, 0x8000},
    {'T', 0x200, 0x10000}, {'L', 0x20, 0x80}, {'N', 0x40, 0x40000}, {'B', 0x10, 0x80000},
    {'E', 0, 0}, {0, 0, 0},
};
enum { LEADING_SPACE = 0x100000, CHUNK = 65535, MOST_PIDS = 64, MOST_VECTORS = 256 };

struct packet { size_t offset, length; char command; };
struct script {                          /* packets laid one behind the other */
    unsigned char *bytes; size_t used, room;
    struct packet *packets; int count, space;
};
struct mail { struct script envelope, header[2], body, end; char promised; };

enum result { NOTHING, PASS, FAIL, OTHER, BROKEN, RESULTS };
static const char *const RESULT[] = {"none", "pass", "fail", "other", "error"};

static struct mail *mails; static int mail_count;
static struct script opening;            /* connect and HELO */
static struct sockaddr_storage target; static socklen_t target_size;
static int connections = 8, wanted = 1000, per_connection = 1, seconds = 300, hold;
static pid_t pids[MOST_PIDS]; static int pid_count;
static atomic_int next_one, answered[3][RESULTS], actions[256], broken;
static double *latency;
static pthread_barrier_t halfway, measured;
static long held_kb;

static void fatal(const char *what, const char *detail)
{
    fprintf(stderr, "load: %s: %s\n", what, detail);
    exit(2);
}

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- encoding ---- */

static void append(struct script *s, const void *data, size_t n)
{
    while (s->used + n > s->room) {
        s->room = s->room ? s->room * 2 : 4096;
        if (!(s->bytes = realloc(s->bytes, s->room))) fatal("memory", strerror(errno));
    }
    memcpy(s->bytes + s->used, data, n);
    s->used += n;
}

static void begin(struct script *s, char command)
{
    if (s->count == s->space) {
        s->space = s->space ? s->space * 2 : 32;
        if (!(s->packets = realloc(s->packets, (size_t)s->space * sizeof *s->packets)))
            fatal("memory", strerror(errno));
    }
    s->packets[s->count++] = (struct packet){s->used, 0, command};
    append(s, "\0\0\0\0", 4);
    append(s, &command, 1);
}

static void finish(struct script *s)
{
    struct packet *p = &s->packets[s->count - 1];
    p->length = s->used - p->offset;
    uint32_t size = htonl((uint32_t)(p->length - 4));
    memcpy(s->bytes + p->offset, &size, 4);
}

/* A packet of NUL-terminated strings; for macros the first one is the step they belong to. */
static void strings(struct script *s, char command, const char *const *words)
{
    begin(s, command);
    if (command == 'D') append(s, *words++, 1);
    for (; *words; words++) append(s, *words, strlen(*words) + 1);
    finish(s);
}
#define STRINGS(s, command, ...) strings(s, command, (const char *const[]){__VA_ARGS__, NULL})

static void header_field(struct mail *m, const char *field, size_t n)
{
    const char *colon = memchr(field, ':', n);
    if (!colon) fatal("header without a colon", field);
    char name[1024], *value = malloc(n + 1), *w = value;
    snprintf(name, sizeof name, "%.*s", (int)(colon - field), field);
    for (const char *r = colon + 1; r < field + n; r++)
        if (*r != '\r') *w++ = *r;       /* folding travels as a bare line feed */
    *w = 0;
    STRINGS(&m->header[1], 'L', name, value);
    STRINGS(&m->header[0], 'L', name, value + (*value == ' '));
    free(value);
}

static void read_mail(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) fatal(path, strerror(errno));
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(size + 1);
    if (fread(text, 1, size, f) != size) fatal(path, "short read");
    fclose(f);
    text[size] = 0;

    mails = realloc(mails, (size_t)(mail_count + 1) * sizeof *mails);
    struct mail *m = &mails[mail_count++];
    memset(m, 0, sizeof *m);
    m->promised = strstr(path, ".pass.") ? PASS : strstr(path, ".fail.") ? FAIL : NOTHING;
    char id[24];
    snprintf(id, sizeof id, "4Bench%06X", mail_count);
    STRINGS(&m->envelope, 'D', "M", "{mail_addr}", "bulk@rsa0.example.com", "{mail_mailer}", "smtp");
    STRINGS(&m->envelope, 'M', "<bulk@rsa0.example.com>", "SIZE=4000");
    STRINGS(&m->envelope, 'D', "R", "i", id, "{rcpt_addr}", "user@example.net", "{rcpt_mailer}", "local");
    STRINGS(&m->envelope, 'R', "<user@example.net>");
    STRINGS(&m->envelope, 'D', "T", "i", id);
    STRINGS(&m->envelope, 'T', "");
    m->envelope.used -= 1;               /* DATA carries nothing, not even an empty string */
    finish(&m->envelope);

    char *at = text, *end = text + size;
    while (at < end && strncmp(at, "\r\n", 2)) {
        char *stop = at;
        do {
            if (!(stop = strstr(stop, "\r\n"))) fatal(path, "header without an end");
            stop += 2;
        } while (*stop == ' ' || *stop == '\t');
        header_field(m, at, (size_t)(stop - 2 - at));
        at = stop;
    }
    for (int i = 0; i < 2; i++) { begin(&m->header[i], 'N'); finish(&m->header[i]); }
    for (at += 2; at < end; at += CHUNK) {
        begin(&m->body, 'B');
        append(&m->body, at, end - at < CHUNK ? (size_t)(end - at) : (size_t)CHUNK);
        finish(&m->body);
    }
    STRINGS(&m->end, 'D', "E", "i", id);
    begin(&m->end, 'E');
    finish(&m->end);
    free(text);
}

static int only_mail(const struct dirent *e) { return strstr(e->d_name, ".eml") != NULL; }

static void read_path(const char *path)
{
    struct stat st;
    if (stat(path, &st)) fatal(path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) { read_mail(path); return; }
    struct dirent **names;
    int n = scandir(path, &names, only_mail, alphasort);
    for (int i = 0; i < n; i++) {
        char full[4096];
        snprintf(full, sizeof full, "%s/%s", path, names[i]->d_name);
        read_mail(full);
    }
}

/* ---- one connection ---- */

struct wire {
    int fd; uint32_t protocol;
    struct iovec out[MOST_VECTORS]; int pending;
    unsigned char in[65536]; size_t read_at, filled;
};

static int send_pending(struct wire *w)
{
    struct iovec *v = w->out;
    for (int left = w->pending; left;) {
        ssize_t n = writev(w->fd, v, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        for (; left && (size_t)n >= v->iov_len; left--) n -= (ssize_t)(v++)->iov_len;
        if (left) { v->iov_base = (char *)v->iov_base + n; v->iov_len -= (size_t)n; }
    }
    w->pending = 0;
    return 0;
}

static int put_packet(struct wire *w, struct script *s, const struct packet *p)
{
    if (w->pending == MOST_VECTORS && send_pending(w)) return -1;
    w->out[w->pending++] = (struct iovec){s->bytes + p->offset, p->length};
    return 0;
}

static int take(struct wire *w, unsigned char *into, size_t n)
{
    while (n) {
        if (w->read_at == w->filled) {
            ssize_t got = read(w->fd, w->in, sizeof w->in);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return -1;
            w->read_at = 0; w->filled = (size_t)got;
        }
        size_t part = w->filled - w->read_at;
        if (part > n) part = n;
        memcpy(into, w->in + w->read_at, part);
        w->read_at += part; into += part; n -= part;
    }
    return 0;
}

/* The next answer's command, its data in `data` (NUL-terminated); -1 where the milter left. */
static int answer(struct wire *w, char *data, size_t room, size_t *length)
{
    uint32_t size;
    unsigned char command;
    if (take(w, (unsigned char *)&size, 4)) return -1;
    size = ntohl(size);
    if (size < 1 || size > room || take(w, &command, 1)) return -1;
    if (take(w, (unsigned char *)data, size - 1)) return -1;
    data[size - 1] = 0;
    *length = size - 1;
    return command;
}

static const struct step *step_of(char command)
{
    const struct step *s = STEPS;
    while (s->command && s->command != command) s++;
    return s;
}

/* Sends packets from..to. 0: go on; >0: the milter's final word (or 's', enough body); -1: gone. */
static int play(struct wire *w, struct script *s, int from, int to)
{
    static _Thread_local char data[1 << 20];
    const struct packet *macros = NULL;
    for (int i = from; i < to; i++) {
        const struct packet *p = &s->packets[i];
        if (p->command == 'D') { macros = p; continue; }
        const struct step *step = step_of(p->command);
        if (step->declined & w->protocol) { macros = NULL; continue; }
        if (macros && put_packet(w, s, macros)) return -1;
        macros = NULL;
        if (put_packet(w, s, p)) return -1;
        if (p->command == 'E') return send_pending(w);
        if (step->silent & w->protocol) continue;
        if (send_pending(w)) return -1;
        size_t n;
        int r;
        do r = answer(w, data, sizeof data, &n); while (r == 'p');
        if (r != 'c') return r;
    }
    return 0;
}

static int dial(struct wire *w)
{
    struct timeval patience = {60, 0};
    char data[4096];
    size_t n;
    w->pending = 0; w->read_at = w->filled = 0;
    if ((w->fd = socket(target.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) return -1;
    setsockopt(w->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct { uint32_t size; char command; uint32_t words[3]; } __attribute__((packed)) offer =
        {htonl(13), 'O', {htonl(6), htonl(0x1ff), htonl(0x1fffff)}};
    uint32_t got[3];
    if (connect(w->fd, (struct sockaddr *)&target, target_size)
        || write(w->fd, &offer, sizeof offer) != (ssize_t)sizeof offer
        || answer(w, data, sizeof data, &n) != 'O' || n < sizeof got) { close(w->fd); return -1; }
    memcpy(got, data, sizeof got);
    w->protocol = ntohl(got[2]);
    if (play(w, &opening, 0, opening.count) < 0) { close(w->fd); return -1; }
    return 0;
}

static enum result verdict_in(const char *field)
{
    const char *found = strstr(field, "dkim=");
    if (!found) return NOTHING;
    return !strncmp(found + 5, "pass", 4) ? PASS : !strncmp(found + 5, "fail", 4) ? FAIL : OTHER;
}

static enum result deliver(struct wire *w, struct mail *m)
{
    static _Thread_local char data[1 << 20];
    enum result seen = NOTHING;
    struct script *header = &m->header[(w->protocol & LEADING_SPACE) != 0];
    int half = hold ? m->body.count / 2 : 0, r;
    size_t n;
    if ((r = play(w, &m->envelope, 0, m->envelope.count)) < 0) return BROKEN;
    if (target.ss_family == AF_INET && send_pending(w)) return BROKEN;
    if (!r && (r = play(w, header, 0, header->count)) < 0) return BROKEN;
    if (hold) {
        if (!r && (r = play(w, &m->body, 0, half)) < 0) return BROKEN;
        if (send_pending(w)) return BROKEN;
        pthread_barrier_wait(&halfway);
        pthread_barrier_wait(&measured);
    }
    if (!r && (r = play(w, &m->body, half, m->body.count)) < 0) return BROKEN;
    if (r && r != 's') { atomic_fetch_add(&actions[r], 1); return seen; }
    if (play(w, &m->end, 0, m->end.count) < 0) return BROKEN;
    for (;;) {
        if ((r = answer(w, data, sizeof data, &n)) < 0) return BROKEN;
        if (r == 'h' || r == 'i') {      /* add header; insert header, after a 4-octet index */
            const char *name = data + (r == 'i' ? 4 : 0), *value = name + strlen(name) + 1;
            if (seen == NOTHING && value < data + n) seen = verdict_in(value);
        } else if (!strchr("+-2mbqpl4e", r)) {
            atomic_fetch_add(&actions[r], 1);
            return seen;
        }
    }
}

static void *sender(void *unused)
{
    struct wire *w = malloc(sizeof *w);
    int left = 0;
    (void)unused;
    w->fd = -1;
    for (int i; (i = atomic_fetch_add(&next_one, 1)) < wanted;) {
        struct mail *m = &mails[i % mail_count];
        double since = clock_now();
        enum result got = BROKEN;
        if (left == 0 && !dial(w)) left = per_connection;
        if (left > 0) got = deliver(w, m);
        latency[i] = clock_now() - since;
        atomic_fetch_add(&answered[(int)m->promised][got], 1);
        if (got == BROKEN) atomic_fetch_add(&broken, 1);
        if (left > 0 && (got == BROKEN || --left == 0)) {
            if (write(w->fd, "\0\0\0\1Q", 5) != 5) atomic_fetch_add(&broken, 0);
            close(w->fd);
            left = 0;
        }
    }
    if (left) close(w->fd);
    free(w);
    return NULL;
}

/* ---- what the milter's processes used ---- */

static void cpu_used(double *user, double *system)
{
    *user = *system = 0;
    for (int i = 0; i < pid_count; i++) {
        char path[64], line[2048];
        snprintf(path, sizeof path, "/proc/%d/stat", pids[i]);
        FILE *f = fopen(path, "r");
        if (!f) continue;
        size_t n = fread(line, 1, sizeof line - 1, f);
        fclose(f);
        line[n] = 0;
        unsigned long u, s;
        char *after = strrchr(line, ')');  /* the command name may hold anything */
        if (after && sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s) == 2) {
            *user += (double)u / (double)sysconf(_SC_CLK_TCK);
            *system += (double)s / (double)sysconf(_SC_CLK_TCK);
        }
    }
}

static long memory_kb(void)
{
    long sum = 0, kb;
    for (int i = 0; i < pid_count; i++) {
        char path[64], line[256];
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pids[i]);
        FILE *f = fopen(path, "r");
        if (!f) continue;
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "Pss: %ld", &kb) == 1) { sum += kb; break; }
        fclose(f);
    }
    return sum;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void time_over(int signal_number)
{
    static const char text[] = "load: time limit reached\n";
    (void)signal_number;
    if (write(2, text, sizeof text - 1)) _exit(3);
    _exit(3);
}

static void parse_socket(const char *text)
{
    int port;
    char host[64];
    if (!strncmp(text, "unix:", 5)) {
        struct sockaddr_un *u = (struct sockaddr_un *)&target;
        u->sun_family = AF_UNIX;
        snprintf(u->sun_path, sizeof u->sun_path, "%s", text + 5);
        target_size = sizeof *u;
    } else if (sscanf(text, "inet:%d@%63s", &port, host) == 2) {
        struct sockaddr_in *i = (struct sockaddr_in *)&target;
        i->sin_family = AF_INET;
        i->sin_port = htons((uint16_t)port);
        if (inet_pton(AF_INET, host, &i->sin_addr) != 1) fatal("want an IPv4 address", host);
        target_size = sizeof *i;
    } else fatal("want unix:PATH or inet:PORT@ADDRESS", text);
}

int main(int argc, char **argv)
{
    const char *where = NULL;
    for (int o; (o = getopt(argc, argv, "s:c:n:m:p:t:H")) != -1;) switch (o) {
        case 's': where = optarg; break;
        case 'c': connections = atoi(optarg); break;
        case 'n': wanted = atoi(optarg); break;
        case 'm': per_connection = atoi(optarg); break;
        case 't': seconds = atoi(optarg); break;
        case 'H': hold = 1; break;
        case 'p':
            for (char *p = strtok(optarg, ","); p && pid_count < MOST_PIDS; p = strtok(NULL, ","))
                pids[pid_count++] = atoi(p);
            break;
        default: return 2;
    }
    if (!where || optind == argc) fatal("usage", "load -s SOCKET [options] FILE|DIRECTORY...");
    parse_socket(where);
    while (optind < argc) read_path(argv[optind++]);
    if (!mail_count) fatal("no messages", "want files that end in .eml");
    if (hold) wanted = connections;
    srand(1);                            /* same order in every run, good and broken mixed */
    for (int i = mail_count - 1; i > 0; i--) {
        int j = rand() % (i + 1);
        struct mail swap = mails[i]; mails[i] = mails[j]; mails[j] = swap;
    }
    STRINGS(&opening, 'D', "C", "j", "mx.example.net", "{daemon_name}", "mx.example.net", "v", "Postfix 3.7.11");
    begin(&opening, 'C');
    append(&opening, "mail.example.com", 17);
    append(&opening, "4\x9c\x40", 3);   /* IPv4, port 40000 */
    append(&opening, "192.0.2.10", 11);
    finish(&opening);
    STRINGS(&opening, 'H', "mail.example.com");

    latency = calloc((size_t)wanted, sizeof *latency);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, time_over);
    alarm((unsigned)seconds);
    pthread_barrier_init(&halfway, NULL, (unsigned)connections + 1);
    pthread_barrier_init(&measured, NULL, (unsigned)connections + 1);
    double user0, system0, user1, system1, last = -1;
    long rest_kb = memory_kb();
    cpu_used(&user0, &system0);
    pthread_t *threads = calloc((size_t)connections, sizeof *threads);
    double since = clock_now();
    for (int i = 0; i < connections; i++)
        if (pthread_create(&threads[i], NULL, sender, NULL)) fatal("thread", strerror(errno));
    if (hold) {
        pthread_barrier_wait(&halfway);
        usleep(500000);                  /* let the milter read what is under way */
        held_kb = memory_kb();
        pthread_barrier_wait(&measured);
    }
    for (int i = 0; i < connections; i++) pthread_join(threads[i], NULL);
    double wall = clock_now() - since;
    for (int still = 0; still < 3;) {    /* three looks, 0.4 s apart, without a tick between */
        cpu_used(&user1, &system1);
        still = user1 + system1 - last < 0.011 ? still + 1 : 0;
        last = user1 + system1;
        usleep(400000);
    }
    qsort(latency, (size_t)wanted, sizeof *latency, ascending);
#define PERCENTILE(p) (1e3 * latency[(int)((wanted - 1) * (p))])
    printf("{\"n\": %d, \"connections\": %d, \"wall_s\": %.3f, \"per_s\": %.1f, \"broken\": %d, "
           "\"p50_ms\": %.3f, \"p95_ms\": %.3f, \"p99_ms\": %.3f, \"user_s\": %.2f, \"system_s\": %.2f, "
           "\"cpu_s_per_1000\": %.4f, \"rest_kb\": %ld, \"held_kb\": %ld, \"after_kb\": %ld, \"results\": {",
           wanted, connections, wall, wanted / wall, atomic_load(&broken), PERCENTILE(.5),
           PERCENTILE(.95), PERCENTILE(.99), user1 - user0, system1 - system0,
           1000 * (user1 + system1 - user0 - system0) / wanted, rest_kb, held_kb, memory_kb());
    const char *comma = "";
    for (int p = 0; p < 3; p++)
        for (int r = 0; r < RESULTS; r++)
            if (answered[p][r]) {
                printf("%s\"%s->%s\": %d", comma, RESULT[p], RESULT[r], answered[p][r]);
                comma = ", ";
            }
    printf("}, \"actions\": {");
    comma = "";
    for (int a = 1; a < 256; a++)
        if (actions[a]) { printf("%s\"%c\": %d", comma, a, actions[a]); comma = ", "; }
    printf("}}\n");
    return atomic_load(&broken) != 0;
}
