/*
 * ioshim: stands between a process and its files, to note what it does to them and to make it fail.
 *
 *   cc -O2 -shared -fPIC -o ioshim.so ioshim.c
 *   LD_PRELOAD=$PWD/ioshim.so IOSHIM_ROOT=/data IOSHIM_RULES='sync *.wal delay=50' program
 *
 * It works on a dynamically linked program on 64-bit Linux that calls the C library for its files, as the Rust
 * standard library does. Without IOSHIM_ROOT it does nothing.
 *
 * Environment
 *   IOSHIM_ROOT     Only files below this absolute path (no symbolic links in it) are looked at.
 *   IOSHIM_RULES    Faults, as below.
 *   IOSHIM_CONTROL  A file with faults. It is read again whenever it changes, and then goes before IOSHIM_RULES;
 *                   replace it by renaming another over it. While it does not exist there are none.
 *   IOSHIM_SEED     A number: what `chance` is drawn from. Default 1.
 *   IOSHIM_TRACE    A file to which each call that changes something is appended, in the order of the calls.
 *   IOSHIM_ACKS     A file; what is written to it is traced as an acknowledgement, before it is written.
 *   IOSHIM_SENDS    If set, what is sent on sockets is traced as an acknowledgement too, before it is sent.
 *
 * Rules stand in lines, or between semicolons:
 *   CALLS GLOB ACTION [after=N] [times=N] [chance=PERCENT]
 *   CALLS   one or several, with commas, of: open read write truncate fsync fdatasync range rename unlink mkdir;
 *           `sync` is fsync,fdatasync; `change` is everything but read and open (an open that creates counts).
 *   GLOB    fnmatch(3) over the absolute path, `*` also matches `/`. A rename is known by its new name.
 *   ACTION  error=EIO (or ENOSPC, EDQUOT, EROFS, ENOMEM, EACCES, or a number): it fails, and nothing is done.
 *           delay=MS   it is done that much later.
 *           kill       SIGKILL to the process instead of the call.
 *           killafter  SIGKILL to the process once the call has returned.
 *           torn       the first half of a write is done, then SIGKILL.
 *           half       the first half of a write is done, and that is what it returns (a short write).
 *           lie        a sync does nothing and says that it has.
 *   after=N   the first N such calls are let through.    times=N   then N are hit, and the rest let through.
 *   chance=P  of those, P in 100 are.
 * Of several rules that fit, all delays count, and the first other action.
 *
 * The trace is a row of records, little-endian, without padding:
 *   u32 length of the record, with this     u8 kind     u8 flags     u16 length of path     u16 length of path2
 *   u16 zero     u32 thread     u32 length of data     i32 result     u64 inode     u64 offset     u64 length
 *   u64 CLOCK_MONOTONIC in ns     path     path2     data
 * Kinds: 1 open (flags: 1 created, 2 emptied), 2 write (offset, data), 3 truncate (length), 4 sync begins
 * (flags: 1 data only, 2 range only), 5 that sync has returned (result; offset is the number of record 4's
 * sync), 6 rename (path to path2), 7 unlink, 8 mkdir, 9 rmdir, 10 acknowledgement (data), 11 a change that this
 * file cannot describe (path2 names the call). Records 4 and 10 are written before the call, all others after it,
 * and only if it succeeded (5: always): so a sync covers exactly the writes that stand before its record 4.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    OPEN = 1, READ = 2, WRITE = 4, TRUNCATE = 8, FSYNC = 16, FDATASYNC = 32, RANGE = 64, RENAME = 128,
    UNLINK = 256, MKDIR = 512, CREATE = 1024
};
#define CHANGE (WRITE | TRUNCATE | FSYNC | FDATASYNC | RANGE | RENAME | UNLINK | MKDIR | CREATE)

enum action { ERROR, DELAY, KILL, KILLAFTER, TORN, HALF, LIE };
enum kind {
    K_OPEN = 1, K_WRITE, K_TRUNCATE, K_SYNC, K_SYNCED, K_RENAME, K_UNLINK, K_MKDIR, K_RMDIR, K_ACK, K_UNKNOWN
};

#define RULES_MAX 64
struct rule {
    int calls;
    char glob[512];
    enum action action;
    int code;
    long delay_ms, after, times, chance;
};

struct verdict {
    int code;      /* fail with this errno */
    long delay_ms;
    int kill, killafter, torn, half, lie;
};

static char root[PATH_MAX], acks[PATH_MAX], control[PATH_MAX];
static size_t root_length;
static int trace_fd = -1, sends;
static uint64_t drawn = 1, syncs;
static struct rule rules[RULES_MAX];
static int rules_count;
static struct timespec control_time;
static ino_t control_inode;
static int control_seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void complain(const char *what, const char *text) {
    char line[700];
    int n = snprintf(line, sizeof line, "ioshim: %s: %s\n", what, text);
    syscall(SYS_write, 2, line, (size_t)n);
    syscall(SYS_exit_group, 99);
}

static int call_named(const char *name) {
    static const struct { const char *name; int call; } calls[] = {
        {"open", OPEN}, {"read", READ}, {"write", WRITE}, {"truncate", TRUNCATE}, {"fsync", FSYNC},
        {"fdatasync", FDATASYNC}, {"range", RANGE}, {"rename", RENAME}, {"unlink", UNLINK}, {"mkdir", MKDIR},
        {"sync", FSYNC | FDATASYNC}, {"change", CHANGE},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(name, calls[i].name)) return calls[i].call;
    complain("no such call", name);
    return 0;
}

static int code_named(const char *name) {
    static const struct { const char *name; int code; } codes[] = {
        {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS}, {"ENOMEM", ENOMEM},
        {"EACCES", EACCES},
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (!strcmp(name, codes[i].name)) return codes[i].code;
    int code = atoi(name);
    if (code <= 0) complain("no such error", name);
    return code;
}

static void parse_rule(char *line) {
    char *rest = NULL, *word = strtok_r(line, " \t", &rest);
    if (!word || *word == '#') return;
    if (rules_count == RULES_MAX) complain("too many rules", line);
    struct rule *rule = &rules[rules_count];
    memset(rule, 0, sizeof *rule);
    rule->times = -1;
    rule->chance = 100;
    char *more = NULL;
    for (char *call = strtok_r(word, ",", &more); call; call = strtok_r(NULL, ",", &more))
        rule->calls |= call_named(call);
    char *glob = strtok_r(NULL, " \t", &rest), *action = strtok_r(NULL, " \t", &rest);
    if (!glob || !action || strlen(glob) >= sizeof rule->glob) {
        complain("a rule is CALLS GLOB ACTION", line);
        return;
    }
    strcpy(rule->glob, glob);
    if (!strncmp(action, "error=", 6)) rule->action = ERROR, rule->code = code_named(action + 6);
    else if (!strncmp(action, "delay=", 6)) rule->action = DELAY, rule->delay_ms = atol(action + 6);
    else if (!strcmp(action, "kill")) rule->action = KILL;
    else if (!strcmp(action, "killafter")) rule->action = KILLAFTER;
    else if (!strcmp(action, "torn")) rule->action = TORN;
    else if (!strcmp(action, "half")) rule->action = HALF;
    else if (!strcmp(action, "lie")) rule->action = LIE;
    else complain("no such action", action);
    for (char *key = strtok_r(NULL, " \t", &rest); key; key = strtok_r(NULL, " \t", &rest)) {
        if (!strncmp(key, "after=", 6)) rule->after = atol(key + 6);
        else if (!strncmp(key, "times=", 6)) rule->times = atol(key + 6);
        else if (!strncmp(key, "chance=", 7)) rule->chance = atol(key + 7);
        else complain("no such key", key);
    }
    rules_count++;
}

static void parse_rules(char *text) {
    char *rest = NULL;
    rules_count = 0;
    for (char *line = strtok_r(text, ";\n", &rest); line; line = strtok_r(NULL, ";\n", &rest)) parse_rule(line);
}

/* Called with the lock held. */
static void reread_control(void) {
    struct stat now;
    if (!*control) return;
    if (syscall(SYS_newfstatat, AT_FDCWD, control, &now, 0)) {
        if (control_seen) rules_count = 0;
        control_seen = 0;
        return;
    }
    if (control_seen && now.st_ino == control_inode && now.st_mtim.tv_sec == control_time.tv_sec &&
        now.st_mtim.tv_nsec == control_time.tv_nsec)
        return;
    static char text[16384];
    int fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return;
    ssize_t n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (n < 0) return;
    text[n] = 0;
    control_seen = 1;
    control_inode = now.st_ino;
    control_time = now.st_mtim;
    parse_rules(text);
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("IOSHIM_ROOT");
    if (!text || *text != '/' || strlen(text) >= sizeof root - 2) return;
    if ((text = getenv("IOSHIM_ACKS"))) snprintf(acks, sizeof acks, "%s", text);
    if ((text = getenv("IOSHIM_CONTROL"))) snprintf(control, sizeof control, "%s", text);
    if ((text = getenv("IOSHIM_SEED")) && atoll(text)) drawn = (uint64_t)atoll(text);
    sends = getenv("IOSHIM_SENDS") != NULL;
    if ((text = getenv("IOSHIM_RULES"))) {
        char *copy = strdup(text);
        parse_rules(copy);
        free(copy);
    }
    if ((text = getenv("IOSHIM_TRACE"))) {
        trace_fd = (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (trace_fd < 0) complain("cannot open the trace", text);
    }
    snprintf(root, sizeof root, "%s", getenv("IOSHIM_ROOT"));
    root_length = strlen(root);
    while (root_length > 1 && root[root_length - 1] == '/') root[--root_length] = 0;
}

static int below_root(const char *path) {
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* Where a descriptor leads; 0 if that does not concern us. */
static int path_of(int fd, char *path) {
    if (!root_length) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return below_root(path);
}

static int is_acks(int fd) {
    if (!*acks || !root_length) return 0;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return !strcmp(path, acks);
}

static int is_socket(int fd) {
    struct stat about;
    return sends && root_length && !syscall(SYS_fstat, fd, &about) && S_ISSOCK(about.st_mode);
}

/* An absolute path of a name; 0 if that does not concern us. */
static int path_at(int dir, const char *name, char *path) {
    if (!root_length || !name) return 0;
    if (*name == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return below_root(path);
    }
    char link[64], base[PATH_MAX];
    if (dir == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    if (n <= 0) return 0;
    base[n] = 0;
    if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    return below_root(path);
}

static uint64_t inode_of(int fd) {
    struct stat about;
    return syscall(SYS_fstat, fd, &about) ? 0 : about.st_ino;
}

static uint64_t inode_at(const char *path) {
    struct stat about;
    return syscall(SYS_newfstatat, AT_FDCWD, path, &about, AT_SYMLINK_NOFOLLOW) ? 0 : about.st_ino;
}

struct __attribute__((packed)) head {
    uint32_t bytes;
    uint8_t kind, flags;
    uint16_t path_bytes, path2_bytes, zero;
    uint32_t thread, data_bytes;
    int32_t result;
    uint64_t inode, offset, length, nanos;
};

static void trace(enum kind kind, int flags, const char *path, const char *path2, uint64_t inode, uint64_t offset,
                  uint64_t length, int result, const struct iovec *data, int pieces, size_t data_bytes) {
    if (trace_fd < 0) return;
    int error = errno;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct head head = {
        .kind = (uint8_t)kind, .flags = (uint8_t)flags, .path_bytes = (uint16_t)strlen(path),
        .path2_bytes = (uint16_t)(path2 ? strlen(path2) : 0), .thread = (uint32_t)syscall(SYS_gettid),
        .data_bytes = (uint32_t)data_bytes, .result = result, .inode = inode, .offset = offset, .length = length,
        .nanos = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
    };
    head.bytes = (uint32_t)(sizeof head + head.path_bytes + head.path2_bytes + data_bytes);
    /* One write, so that records of several threads do not mix: a regular file keeps appends apart. */
    char *record = malloc(head.bytes), *out = record;
    if (!record) complain("no memory for", path);
    memcpy(out, &head, sizeof head), out += sizeof head;
    memcpy(out, path, head.path_bytes), out += head.path_bytes;
    if (path2) memcpy(out, path2, head.path2_bytes), out += head.path2_bytes;
    for (int i = 0; i < pieces && data_bytes; i++) {
        size_t n = data[i].iov_len < data_bytes ? data[i].iov_len : data_bytes;
        memcpy(out, data[i].iov_base, n);
        out += n, data_bytes -= n;
    }
    if (syscall(SYS_write, trace_fd, record, (size_t)head.bytes) != (long)head.bytes)
        complain("cannot write the trace about", path);
    free(record);
    errno = error;
}

static void unknown(const char *call, const char *path, uint64_t inode) {
    trace(K_UNKNOWN, 0, path, call, inode, 0, 0, 0, NULL, 0, 0);
}

static struct verdict judge(int call, const char *path) {
    struct verdict verdict = {0};
    pthread_mutex_lock(&lock);
    reread_control();
    int acted = 0;
    for (int i = 0; i < rules_count; i++) {
        struct rule *rule = &rules[i];
        if (!(rule->calls & call) || fnmatch(rule->glob, path, 0)) continue;
        if (rule->action != DELAY && acted) continue;
        if (rule->after > 0) {
            rule->after--;
            continue;
        }
        if (rule->chance < 100) {
            drawn ^= drawn << 13, drawn ^= drawn >> 7, drawn ^= drawn << 17;
            if ((long)(drawn % 100) >= rule->chance) continue;
        }
        if (rule->times == 0) continue;
        if (rule->times > 0) rule->times--;
        acted |= rule->action != DELAY;
        switch (rule->action) {
        case ERROR: verdict.code = rule->code; break;
        case DELAY: verdict.delay_ms += rule->delay_ms; break;
        case KILL: verdict.kill = 1; break;
        case KILLAFTER: verdict.killafter = 1; break;
        case TORN: verdict.torn = 1; break;
        case HALF: verdict.half = 1; break;
        case LIE: verdict.lie = 1; break;
        }
    }
    pthread_mutex_unlock(&lock);
    return verdict;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Carries out what comes before the call; non-zero if it must not be made, with errno set. */
static int before(const struct verdict *verdict) {
    if (verdict->delay_ms) {
        struct timespec left = {verdict->delay_ms / 1000, verdict->delay_ms % 1000 * 1000000};
        while (nanosleep(&left, &left) && errno == EINTR) {}
    }
    if (verdict->kill) die();
    if (verdict->code) errno = verdict->code;
    return verdict->code;
}

static void after(const struct verdict *verdict) {
    if (verdict->killafter) die();
}

/* ---- opening ---- */

static int open_at(int dir, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!path_at(dir, name, path)) return (int)syscall(SYS_openat, dir, name, flags, mode);
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    int creates = (flags & O_CREAT) && !inode_at(path);
    struct verdict verdict = judge(creates ? OPEN | CREATE : OPEN, path);
    if (before(&verdict)) return -1;
    int fd = (int)syscall(SYS_openat, dir, name, flags, mode);
    if (fd >= 0 && (creates || writes)) {
        int flagged = (creates ? 1 : 0) | (flags & O_TRUNC && writes ? 2 : 0);
        trace(K_OPEN, flagged, path, NULL, inode_of(fd), 0, 0, 0, NULL, 0, 0);
    }
    after(&verdict);
    return fd;
}

static mode_t mode_of(int flags, va_list more) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? (mode_t)va_arg(more, int) : 0;
}

#define OPENER(NAME)                                                                                                   \
    int NAME(const char *name, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = mode_of(flags, more);                                                                            \
        va_end(more);                                                                                                  \
        return open_at(AT_FDCWD, name, flags, mode);                                                                   \
    }
#define OPENER_AT(NAME)                                                                                                \
    int NAME(int dir, const char *name, int flags, ...) {                                                              \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = mode_of(flags, more);                                                                            \
        va_end(more);                                                                                                  \
        return open_at(dir, name, flags, mode);                                                                        \
    }
OPENER(open)
OPENER(open64)
OPENER_AT(openat)
OPENER_AT(openat64)
int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

/* ---- reading ---- */

#define READER(RESULT, NAME, PARAMETERS, CALL)                                                                         \
    RESULT NAME PARAMETERS {                                                                                           \
        char path[PATH_MAX];                                                                                           \
        if (path_of(fd, path)) {                                                                                       \
            struct verdict verdict = judge(READ, path);                                                                \
            if (before(&verdict)) return -1;                                                                           \
        }                                                                                                              \
        return CALL;                                                                                                   \
    }
READER(ssize_t, read, (int fd, void *to, size_t n), syscall(SYS_read, fd, to, n))
READER(ssize_t, readv, (int fd, const struct iovec *to, int n), syscall(SYS_readv, fd, to, n))
READER(ssize_t, pread, (int fd, void *to, size_t n, off_t at), syscall(SYS_pread64, fd, to, n, at))
READER(ssize_t, pread64, (int fd, void *to, size_t n, off64_t at), syscall(SYS_pread64, fd, to, n, at))

/* ---- writing ---- */

#define HERE (-1)

static ssize_t write_pieces(int fd, const struct iovec *pieces, int count, off64_t at) {
    size_t all = 0;
    for (int i = 0; i < count; i++) all += pieces[i].iov_len;
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    if (is_acks(fd)) {
        trace(K_ACK, 0, acks, NULL, 0, 0, all, 0, pieces, count, all);
        ours = 0;
    } else if (!ours && is_socket(fd)) {
        trace(K_ACK, 1, "socket", NULL, (uint64_t)fd, 0, all, 0, pieces, count, all);
    }
    struct verdict verdict = {0};
    if (ours) verdict = judge(WRITE, path);
    if (before(&verdict)) return -1;
    struct iovec first;
    if ((verdict.torn || verdict.half) && count > 0) {
        first = (struct iovec){pieces[0].iov_base, all > 1 ? pieces[0].iov_len / 2 : pieces[0].iov_len};
        pieces = &first, count = 1;
    }
    ssize_t n = at == HERE ? syscall(SYS_writev, fd, pieces, count)
                           : syscall(SYS_pwritev, fd, pieces, (long)count, at, 0L);
    if (ours && n > 0) {
        if (at == HERE) at = syscall(SYS_lseek, fd, 0, SEEK_CUR) - n;
        trace(K_WRITE, 0, path, NULL, inode_of(fd), (uint64_t)at, (uint64_t)n, 0, pieces, count, (size_t)n);
    }
    if (verdict.torn) die();
    after(&verdict);
    return n;
}

static ssize_t write_one(int fd, const void *from, size_t n, off64_t at) {
    struct iovec piece = {(void *)from, n};
    return write_pieces(fd, &piece, 1, at);
}

ssize_t write(int fd, const void *from, size_t n) { return write_one(fd, from, n, HERE); }
ssize_t pwrite(int fd, const void *from, size_t n, off_t at) { return write_one(fd, from, n, at); }
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) { return write_one(fd, from, n, at); }
ssize_t writev(int fd, const struct iovec *pieces, int n) { return write_pieces(fd, pieces, n, HERE); }
ssize_t pwritev(int fd, const struct iovec *pieces, int n, off_t at) { return write_pieces(fd, pieces, n, at); }
ssize_t pwritev64(int fd, const struct iovec *pieces, int n, off64_t at) { return write_pieces(fd, pieces, n, at); }

ssize_t sendto(int fd, const void *from, size_t n, int flags, const struct sockaddr *to, socklen_t to_bytes) {
    if (is_socket(fd)) {
        struct iovec piece = {(void *)from, n};
        trace(K_ACK, 1, "socket", NULL, (uint64_t)fd, 0, n, 0, &piece, 1, n);
    }
    return syscall(SYS_sendto, fd, from, n, flags, to, to_bytes);
}
ssize_t send(int fd, const void *from, size_t n, int flags) { return sendto(fd, from, n, flags, NULL, 0); }
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    if (is_socket(fd)) {
        size_t all = 0;
        for (size_t i = 0; i < message->msg_iovlen; i++) all += message->msg_iov[i].iov_len;
        trace(K_ACK, 1, "socket", NULL, (uint64_t)fd, 0, all, 0, message->msg_iov, (int)message->msg_iovlen, all);
    }
    return syscall(SYS_sendmsg, fd, message, flags);
}

/* ---- length ---- */

static int truncate_to(int fd, off64_t length) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return (int)syscall(SYS_ftruncate, fd, length);
    struct verdict verdict = judge(TRUNCATE, path);
    if (before(&verdict)) return -1;
    int result = (int)syscall(SYS_ftruncate, fd, length);
    if (!result) trace(K_TRUNCATE, 0, path, NULL, inode_of(fd), 0, (uint64_t)length, 0, NULL, 0, 0);
    after(&verdict);
    return result;
}
int ftruncate(int fd, off_t length) { return truncate_to(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncate_to(fd, length); }

int fallocate(int fd, int mode, off_t at, off_t length) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    struct verdict verdict = {0};
    if (ours) verdict = judge(WRITE, path);
    if (before(&verdict)) return -1;
    int result = (int)syscall(SYS_fallocate, fd, mode, at, length);
    if (ours && !result) unknown("fallocate", path, inode_of(fd));
    after(&verdict);
    return result;
}
int fallocate64(int fd, int mode, off64_t at, off64_t length) { return fallocate(fd, mode, at, length); }

/* ---- making it last ---- */

static int synced(int fd, int call, int flags, long number, off64_t at, off64_t length, unsigned range) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    struct verdict verdict = {0};
    uint64_t inode = 0, turn = 0;
    if (ours) {
        inode = inode_of(fd);
        turn = __atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST);
        verdict = judge(call, path);
        trace(K_SYNC, flags, path, NULL, inode, turn, 0, 0, NULL, 0, 0);
    }
    int result = before(&verdict) ? -1
                 : verdict.lie    ? 0
                 : call == RANGE  ? (int)syscall(number, fd, at, length, range)
                                  : (int)syscall(number, fd);
    if (ours) trace(K_SYNCED, flags, path, NULL, inode, turn, 0, result, NULL, 0, 0);
    after(&verdict);
    return result;
}
int fsync(int fd) { return synced(fd, FSYNC, 0, SYS_fsync, 0, 0, 0); }
int fdatasync(int fd) { return synced(fd, FDATASYNC, 1, SYS_fdatasync, 0, 0, 0); }
int sync_file_range(int fd, off64_t at, off64_t length, unsigned flags) {
    return synced(fd, RANGE, 2, SYS_sync_file_range, at, length, flags);
}

/* ---- names ---- */

static int rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char path[PATH_MAX], path2[PATH_MAX];
    int ours = path_at(from_dir, from, path) | path_at(to_dir, to, path2);
    if (!ours) return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    struct verdict verdict = judge(RENAME, path2);
    if (before(&verdict)) return -1;
    uint64_t inode = inode_at(path);
    int result = (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
    if (!result && flags) unknown("renameat2 with flags", path, inode);
    else if (!result) trace(K_RENAME, 0, path, path2, inode, 0, 0, 0, NULL, 0, 0);
    after(&verdict);
    return result;
}
int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return rename_at(from_dir, from, to_dir, to, 0);
}
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return rename_at(from_dir, from, to_dir, to, flags);
}

static int unlink_at(int dir, const char *name, int flags) {
    char path[PATH_MAX];
    if (!path_at(dir, name, path)) return (int)syscall(SYS_unlinkat, dir, name, flags);
    struct verdict verdict = judge(UNLINK, path);
    if (before(&verdict)) return -1;
    uint64_t inode = inode_at(path);
    int result = (int)syscall(SYS_unlinkat, dir, name, flags);
    if (!result) trace(flags & AT_REMOVEDIR ? K_RMDIR : K_UNLINK, 0, path, NULL, inode, 0, 0, 0, NULL, 0, 0);
    after(&verdict);
    return result;
}
int unlink(const char *name) { return unlink_at(AT_FDCWD, name, 0); }
int unlinkat(int dir, const char *name, int flags) { return unlink_at(dir, name, flags); }
int rmdir(const char *name) { return unlink_at(AT_FDCWD, name, AT_REMOVEDIR); }

static int mkdir_at(int dir, const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!path_at(dir, name, path)) return (int)syscall(SYS_mkdirat, dir, name, mode);
    struct verdict verdict = judge(MKDIR, path);
    if (before(&verdict)) return -1;
    int result = (int)syscall(SYS_mkdirat, dir, name, mode);
    if (!result) trace(K_MKDIR, 0, path, NULL, inode_at(path), 0, 0, 0, NULL, 0, 0);
    after(&verdict);
    return result;
}
int mkdir(const char *name, mode_t mode) { return mkdir_at(AT_FDCWD, name, mode); }
int mkdirat(int dir, const char *name, mode_t mode) { return mkdir_at(dir, name, mode); }

/* ---- what changes files in ways that the trace has no words for ---- */

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char path[PATH_MAX];
    int ours = path_at(to_dir, to, path);
    int result = (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
    if (ours && !result) unknown("link", path, 0);
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

ssize_t copy_file_range(int from, off64_t *from_at, int fd, off64_t *at, size_t n, unsigned flags) {
    char path[PATH_MAX];
    int ours = path_of(fd, path);
    ssize_t result = syscall(SYS_copy_file_range, from, from_at, fd, at, n, flags);
    if (ours && result > 0) unknown("copy_file_range", path, inode_of(fd));
    return result;
}

static void *map(void *where, size_t n, int protection, int flags, int fd, off64_t at) {
    char path[PATH_MAX];
    if (fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_TYPE) != MAP_PRIVATE && path_of(fd, path))
        unknown("mmap", path, inode_of(fd));
    return (void *)syscall(SYS_mmap, where, n, protection, flags, fd, at);
}
void *mmap(void *where, size_t n, int protection, int flags, int fd, off_t at) {
    return map(where, n, protection, flags, fd, at);
}
void *mmap64(void *where, size_t n, int protection, int flags, int fd, off64_t at) {
    return map(where, n, protection, flags, fd, at);
}
