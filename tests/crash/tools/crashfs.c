/* crashfs: what would the disk hold if the power failed now? And: what if the disk failed now? An LD_PRELOAD shim, Linux/glibc.
 *
 * Build: gcc -O2 -shared -fPIC -o crashfs.so crashfs.c -ldl -lpthread      (tests/crash/sweep.py does it)
 *
 * Every call that changes the disk below CRASHFS_ROOT is an "op" with a number, counted over all processes that were started
 * with the shim. Ops happen one at a time, under a lock that all of them share. CRASHFS_SHADOW (an empty folder on the same file
 * system) holds what a hostile but legal disk would still have after a power cut:
 *
 *   SHADOW/ino/<key>          a file's bytes as of its last fsync or fdatasync (key = inode and birth time: survives a rename)
 *   SHADOW/dir/<key>/<name>   a directory's names as of its last fsync: a hard link to ino/<key>, or a symbolic link whose target
 *                             is "D:<key>" for a directory and "L:<target>" for a symbolic link
 *   SHADOW/root               symbolic link "D:<key>" of the root
 *
 * So a file is durable when both its bytes and the name that leads to it are. What exists when the first process starts is durable.
 *
 * Environment, besides those two:
 *   CRASHFS_PAUSE=folder      before each op write "<number> <kind> <path>\n" to folder/ask, then read one byte from folder/go:
 *                             'g' go on; 'h' write half of this write, ask once more (kind with a trailing "/2"), then the rest
 *   CRASHFS_KILL_AT=n         SIGKILL the process at op n (CRASHFS_KILL_GROUP=1: its process group)
 *   CRASHFS_ERR=kind:errno:n[:sticky]   the n-th op of that kind fails; kind is an op name, "data" (any write), "sync" (fsync or
 *                             fdatasync) or "any"; errno ENOSPC, EIO, EDQUOT, EROFS, EINTR or SHORT (half is written);
 *                             sticky: so do all later ones
 *   CRASHFS_ERR_PATH=text     only ops on paths that contain this text fail
 *   CRASHFS_REALSYNC=1        pass fsync on to the kernel (by default it is only noted: the model needs no real disk)
 *   CRASHFS_MODEL=ext4        fsync of a file also keeps its name and those above it, as ext4 does and POSIX does not promise
 *
 * After a failed fsync a file never becomes durable again: the kernel has dropped the pages that it could not write, and a later
 * fsync says yes and means nothing (PostgreSQL wiki, "Fsync Errors"). Code that tries again and goes on is caught.
 *
 * Not seen: io_uring, static binaries, bytes written through mmap and never fsynced by descriptor; stdio counts its creates only.
 * For those there is powercut.py. Hard links are counted as ops and not modelled further.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 65536
#define BAD 256
#define FMT(buf, ...) snprintf(buf, sizeof buf, __VA_ARGS__)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum answer { GO = 0, FAIL = 1, HALF = 2, HALF_ASKED = 3 };

struct shared { /* in SHADOW/ctr, mapped by all processes */
    volatile long ops, matched;
};

static struct shared *shared;
static char root[PATH_MAX], shadow[PATH_MAX], pause_dir[PATH_MAX];
static size_t root_length;
static int on, pausing, kill_group, no_sync, ext4_model, sticky;
static long kill_at, fail_at, fail_errno; /* fail_errno -1: a short write */
static char fail_kind[32], fail_path[256];
static signed char inside[FDS]; /* per descriptor: 0 unknown, 1 below root, -1 not */
static char bad[BAD][64];       /* keys of the files whose fsync was made to fail */
static int bad_count;

/* --- one op at a time ------------------------------------------------------------------------------------------------ */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread int depth, lock_fd;

static void enter(void) {
    if (depth++) return;
    char path[PATH_MAX + 8];
    FMT(path, "%s/lock", shadow);
    pthread_mutex_lock(&mutex);
    lock_fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_fd >= 0) syscall(SYS_flock, lock_fd, LOCK_EX);
}

static void leave(void) {
    int keep = errno;
    if (--depth) return;
    if (lock_fd >= 0) syscall(SYS_close, lock_fd);
    pthread_mutex_unlock(&mutex);
    errno = keep;
}

static void after_fork(void) { /* another thread may have held it */
    pthread_mutex_init(&mutex, NULL);
    depth = 0;
}

/* --- paths and keys -------------------------------------------------------------------------------------------------- */

static int under(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int path_of_fd(int fd, char *out) { /* 0, or 1 when the name is gone, or -1 */
    char link[64];
    FMT(link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlink, link, out, PATH_MAX - 1);
    if (n < 0) return -1;
    out[n] = 0;
    if (n > 10 && !strcmp(out + n - 10, " (deleted)")) {
        out[n - 10] = 0;
        return 1;
    }
    return 0;
}

static int fd_inside(int fd) {
    char path[PATH_MAX];
    if (!on || fd < 0) return 0;
    if (fd < FDS && inside[fd]) return inside[fd] > 0;
    int in = path_of_fd(fd, path) >= 0 && under(path);
    if (fd < FDS) inside[fd] = in ? 1 : -1;
    return in;
}

static void forget_fd(int fd) {
    if (fd >= 0 && fd < FDS) inside[fd] = 0;
}

static int path_inside(int dir_fd, const char *path, char *out) { /* `out`: absolute, its parent resolved */
    char text[PATH_MAX * 2], dir[PATH_MAX], base[NAME_MAX + 2];
    if (!on || !path) return 0;
    if (path[0] == '/') FMT(text, "%s", path);
    else if (dir_fd == AT_FDCWD ? syscall(SYS_getcwd, dir, sizeof dir) < 0 : path_of_fd(dir_fd, dir) < 0) return 0;
    else FMT(text, "%s/%s", dir, path);
    size_t n = strlen(text);
    while (n > 1 && text[n - 1] == '/') text[--n] = 0;
    char *slash = strrchr(text, '/');
    if (!slash) return 0;
    FMT(base, "%s", slash + 1);
    *slash = 0;
    if (!realpath(*text ? text : "/", dir) || strlen(dir) + strlen(base) + 2 > PATH_MAX) return 0;
    sprintf(out, "%s/%s", !strcmp(dir, "/") ? "" : dir, base);
    return under(out);
}

static int key_of(const char *path, int fd, char *out) { /* 0 a file, 1 a directory, 2 else, -1 not there */
    struct statx x;
    int flags = (fd >= 0 ? AT_EMPTY_PATH : 0) | AT_SYMLINK_NOFOLLOW;
    if (syscall(SYS_statx, fd >= 0 ? fd : AT_FDCWD, fd >= 0 ? "" : path, flags, STATX_BASIC_STATS | STATX_BTIME, &x)) return -1;
    sprintf(out, "%llu.%lld.%u", (unsigned long long)x.stx_ino, (long long)x.stx_btime.tv_sec, x.stx_btime.tv_nsec);
    return S_ISREG(x.stx_mode) ? 0 : S_ISDIR(x.stx_mode) ? 1 : 2;
}

/* --- the shadow: what is durable ------------------------------------------------------------------------------------- */

static int is_bad(const char *key) {
    for (int i = 0; i < bad_count; i++)
        if (!strcmp(bad[i], key)) return 1;
    return 0;
}

static void keep_bytes(int fd) {
    char key[64], kept[PATH_MAX + 80], link[64];
    struct stat st;
    if (key_of(NULL, fd, key) || is_bad(key)) return;
    FMT(kept, "%s/ino/%s", shadow, key);
    FMT(link, "/proc/self/fd/%d", fd);
    int in = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    int out = syscall(SYS_openat, AT_FDCWD, kept, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (in >= 0 && out >= 0 && !fstat(in, &st)) {
        off_t at = 0;
        while (at < st.st_size && syscall(SYS_sendfile, out, in, &at, st.st_size - at) > 0) continue;
        syscall(SYS_ftruncate, out, st.st_size);
    }
    if (in >= 0) syscall(SYS_close, in);
    if (out >= 0) syscall(SYS_close, out);
}

static void make_dir(const char *key) {
    char path[PATH_MAX + 80];
    FMT(path, "%s/dir/%s", shadow, key);
    syscall(SYS_mkdirat, AT_FDCWD, path, 0700);
}

static void keep_name(const char *dir_key, const char *path) {
    char key[64], kept[PATH_MAX + 80], name[PATH_MAX * 2], temporary[PATH_MAX + 16], target[PATH_MAX + 8];
    struct stat a, b;
    int kind = key_of(path, -1, key);
    if (kind < 0) return;
    FMT(kept, "%s/ino/%s", shadow, key);
    FMT(name, "%s/dir/%s/%s", shadow, dir_key, strrchr(path, '/') + 1);
    FMT(temporary, "%s/tmp", shadow);
    if (kind == 0) {
        int fd = syscall(SYS_openat, AT_FDCWD, kept, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0) syscall(SYS_close, fd);
        if (!lstat(name, &a) && !lstat(kept, &b) && a.st_ino == b.st_ino) return;
    }
    syscall(SYS_unlinkat, AT_FDCWD, temporary, 0);
    if (kind == 0) {
        syscall(SYS_linkat, AT_FDCWD, kept, AT_FDCWD, temporary, 0);
    } else {
        memcpy(target, kind == 1 ? "D:" : "L:", 2);
        if (kind == 1) {
            strcpy(target + 2, key);
        } else {
            ssize_t n = syscall(SYS_readlink, path, target + 2, PATH_MAX - 1);
            if (n < 0) return;
            target[n + 2] = 0;
        }
        syscall(SYS_symlinkat, target, AT_FDCWD, temporary);
    }
    syscall(SYS_renameat2, AT_FDCWD, temporary, AT_FDCWD, name, 0);
}

static int dots(const char *name) { return !strcmp(name, ".") || !strcmp(name, ".."); }

static void keep_dir(const char *path, int deep) { /* its names are durable now; deep: and all below, bytes too */
    char key[64], kept[PATH_MAX + 80], child[PATH_MAX * 2];
    struct stat st;
    struct dirent *entry;
    DIR *dir;
    if (key_of(path, -1, key) != 1 || is_bad(key)) return;
    make_dir(key);
    FMT(kept, "%s/dir/%s", shadow, key);
    if ((dir = opendir(path))) {
        while ((entry = readdir(dir))) {
            if (dots(entry->d_name)) continue;
            FMT(child, "%s/%s", path, entry->d_name);
            if (!strcmp(child, shadow)) continue;
            keep_name(key, child);
            if (!deep || lstat(child, &st)) continue;
            if (S_ISDIR(st.st_mode)) {
                keep_dir(child, 1);
            } else if (S_ISREG(st.st_mode)) {
                int fd = syscall(SYS_openat, AT_FDCWD, child, O_RDONLY | O_CLOEXEC);
                if (fd < 0) continue;
                keep_bytes(fd);
                syscall(SYS_close, fd);
            }
        }
        closedir(dir);
    }
    if ((dir = opendir(kept))) { /* names that are gone are durably gone */
        while ((entry = readdir(dir))) {
            if (dots(entry->d_name)) continue;
            FMT(child, "%s/%s", path, entry->d_name);
            if (!lstat(child, &st)) continue;
            FMT(child, "%s/%s", kept, entry->d_name);
            syscall(SYS_unlinkat, AT_FDCWD, child, 0);
        }
        closedir(dir);
    }
}

static void keep_names_above(char *path) {
    char key[64];
    while (under(path) && strcmp(path, root)) {
        char *slash = strrchr(path, '/');
        *slash = 0;
        if (key_of(path, -1, key) != 1) return;
        make_dir(key);
        *slash = '/';
        keep_name(key, path);
        *slash = 0;
    }
}

static void baseline(void) { /* the first process: all that exists now is durable */
    char path[PATH_MAX + 16], key[64], target[80];
    struct stat st;
    FMT(path, "%s/root", shadow);
    enter();
    if (lstat(path, &st) && key_of(root, -1, key) == 1) {
        keep_dir(root, 1);
        FMT(target, "D:%s", key);
        syscall(SYS_symlinkat, target, AT_FDCWD, path);
    }
    leave();
}

/* --- start ----------------------------------------------------------------------------------------------------------- */

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

__attribute__((constructor)) static void start(void) {
    const char *value = setting("CRASHFS_ROOT"), *where = setting("CRASHFS_SHADOW");
    char path[PATH_MAX + 16];
    if (!value || !where || !realpath(value, root) || !realpath(where, shadow)) return;
    root_length = strlen(root);
    kill_at = (value = setting("CRASHFS_KILL_AT")) ? atol(value) : 0;
    kill_group = (value = setting("CRASHFS_KILL_GROUP")) && *value == '1';
    no_sync = !((value = setting("CRASHFS_REALSYNC")) && *value == '1');
    ext4_model = (value = setting("CRASHFS_MODEL")) && !strcmp(value, "ext4");
    if ((value = setting("CRASHFS_PAUSE"))) {
        FMT(pause_dir, "%s", value);
        pausing = 1;
    }
    if ((value = setting("CRASHFS_ERR"))) {
        char name[16] = "", rest[16] = "";
        if (sscanf(value, "%31[^:]:%15[^:]:%ld:%15s", fail_kind, name, &fail_at, rest) >= 3)
            fail_errno = !strcmp(name, "ENOSPC")   ? ENOSPC
                         : !strcmp(name, "EROFS")  ? EROFS
                         : !strcmp(name, "EDQUOT") ? EDQUOT
                         : !strcmp(name, "EINTR")  ? EINTR
                         : !strcmp(name, "SHORT")  ? -1
                                                   : EIO;
        sticky = !strcmp(rest, "sticky");
        if ((value = setting("CRASHFS_ERR_PATH"))) FMT(fail_path, "%s", value);
    }
    FMT(path, "%s/ino", shadow), mkdir(path, 0700);
    FMT(path, "%s/dir", shadow), mkdir(path, 0700);
    FMT(path, "%s/ctr", shadow);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || syscall(SYS_ftruncate, fd, 4096)) return;
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (shared == MAP_FAILED) return;
    pthread_atfork(NULL, NULL, after_fork);
    baseline();
    on = 1;
}

/* --- ops ------------------------------------------------------------------------------------------------------------- */

static int ask(long number, const char *kind, const char *part, const char *path) { /* the byte that the sweep answers */
    char line[PATH_MAX + 128], name[PATH_MAX + 8], answer = 'g';
    int n = FMT(line, "%ld %s%s %s\n", number, kind, part, path);
    if (n > PIPE_BUF) n = PIPE_BUF, line[n - 1] = '\n';
    FMT(name, "%s/ask", pause_dir);
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return 'g';
    syscall(SYS_write, fd, line, n);
    syscall(SYS_close, fd);
    FMT(name, "%s/go", pause_dir);
    fd = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 'g';
    syscall(SYS_read, fd, &answer, 1);
    syscall(SYS_close, fd);
    return answer;
}

/* Count the op, ask, kill or fail. The caller holds the lock, and keeps it until the call is done. */
static enum answer op(const char *kind, const char *path, int is_data) {
    long number = __sync_add_and_fetch(&shared->ops, 1);
    int half = 0;
    if (pausing) half = ask(number, kind, "", path) == 'h' && is_data;
    if (kill_at && number == kill_at) {
        syscall(SYS_kill, kill_group ? 0 : (int)getpid(), SIGKILL);
        for (;;) pause();
    }
    if (fail_errno) {
        int is_sync = !strcmp(kind, "fsync") || !strcmp(kind, "fdatasync");
        int match = !strcmp(fail_kind, "any") || !strcmp(fail_kind, kind) || (!strcmp(fail_kind, "data") && is_data) ||
                    (!strcmp(fail_kind, "sync") && is_sync);
        if (match && strstr(path, fail_path)) {
            long count = __sync_add_and_fetch(&shared->matched, 1);
            if (count == fail_at || (sticky && count >= fail_at)) {
                if (fail_errno < 0) return is_data ? HALF : GO;
                errno = fail_errno;
                return FAIL;
            }
        }
    }
    return half ? HALF_ASKED : GO;
}

static void after_write(int fd) {
    int flags = syscall(SYS_fcntl, fd, F_GETFL);
    if (flags >= 0 && (flags & O_DSYNC)) keep_bytes(fd);
}

static ssize_t do_write(const char *kind, int fd, const void *bytes, size_t n, off_t at) { /* at < 0: where the file stands */
    char path[PATH_MAX] = "?";
    ssize_t done;
    enter();
    path_of_fd(fd, path);
    enum answer answer = op(kind, path, 1);
    size_t first = n / 2;
    if (answer == FAIL) {
        done = -1;
    } else if (answer == GO || first == 0) {
        done = at < 0 ? syscall(SYS_write, fd, bytes, n) : syscall(SYS_pwrite64, fd, bytes, n, at);
    } else {
        done = at < 0 ? syscall(SYS_write, fd, bytes, first) : syscall(SYS_pwrite64, fd, bytes, first, at);
        if (answer == HALF_ASKED && done == (ssize_t)first) {
            ask(shared->ops, kind, "/2", path);
            const char *more = (const char *)bytes + first;
            ssize_t rest = at < 0 ? syscall(SYS_write, fd, more, n - first) : syscall(SYS_pwrite64, fd, more, n - first, at + first);
            if (rest > 0) done += rest;
        }
    }
    if (done > 0) after_write(fd);
    leave();
    return done;
}

ssize_t write(int fd, const void *bytes, size_t n) {
    return fd_inside(fd) ? do_write("write", fd, bytes, n, -1) : syscall(SYS_write, fd, bytes, n);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
    return fd_inside(fd) ? do_write("pwrite", fd, bytes, n, at) : syscall(SYS_pwrite64, fd, bytes, n, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) { return pwrite(fd, bytes, n, at); }

/* Writes of several pieces and copies inside the kernel: one op, never halved but by SHORT. */
#define WRITE_OP(kind, whole, part)                                        \
    do {                                                                   \
        if (!fd_inside(fd)) return whole;                                  \
        char path_[PATH_MAX] = "?";                                        \
        enter();                                                           \
        path_of_fd(fd, path_);                                             \
        enum answer answer_ = op(kind, path_, 1);                          \
        ssize_t done_ = answer_ == FAIL ? -1 : answer_ == HALF ? part : whole; \
        if (done_ > 0) after_write(fd);                                    \
        leave();                                                           \
        return done_;                                                      \
    } while (0)

ssize_t writev(int fd, const struct iovec *v, int n) {
    WRITE_OP("writev", syscall(SYS_writev, fd, v, n), syscall(SYS_write, fd, v[0].iov_base, v[0].iov_len / 2));
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) {
    WRITE_OP("pwritev", REAL(pwritev)(fd, v, n, at), syscall(SYS_pwrite64, fd, v[0].iov_base, v[0].iov_len / 2, at));
}
ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at) { return pwritev(fd, v, n, at); }
ssize_t sendfile(int fd, int in, off_t *at, size_t n) {
    WRITE_OP("sendfile", syscall(SYS_sendfile, fd, in, at, n), syscall(SYS_sendfile, fd, in, at, n / 2));
}
ssize_t sendfile64(int fd, int in, off64_t *at, size_t n) { return sendfile(fd, in, (off_t *)at, n); }
ssize_t copy_file_range(int in, off64_t *in_at, int fd, off64_t *at, size_t n, unsigned flags) {
    WRITE_OP("copy_file_range", syscall(SYS_copy_file_range, in, in_at, fd, at, n, flags),
             syscall(SYS_copy_file_range, in, in_at, fd, at, n / 2, flags));
}

/* Ops on a descriptor that are no writes. */
#define FD_OP(kind, call, failed)                  \
    do {                                           \
        if (!fd_inside(fd)) return call;           \
        char path_[PATH_MAX] = "?";                \
        enter();                                   \
        path_of_fd(fd, path_);                     \
        int failed_ = op(kind, path_, 0) == FAIL;  \
        int done_ = failed_ ? failed : (int)(call); \
        leave();                                   \
        return done_;                              \
    } while (0)

int ftruncate(int fd, off_t n) { FD_OP("ftruncate", syscall(SYS_ftruncate, fd, n), -1); }
int ftruncate64(int fd, off64_t n) { return ftruncate(fd, n); }
int fallocate(int fd, int mode, off_t at, off_t n) { FD_OP("fallocate", syscall(SYS_fallocate, fd, mode, at, n), -1); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { return fallocate(fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n) { FD_OP("fallocate", REAL(posix_fallocate)(fd, at, n), errno); }
int posix_fallocate64(int fd, off64_t at, off64_t n) { return posix_fallocate(fd, at, n); }

static int do_sync(const char *kind, int fd, int (*call)(int)) {
    char path[PATH_MAX];
    struct stat st;
    int done = 0;
    enter();
    int gone = path_of_fd(fd, path);
    if (op(kind, path, 0) == FAIL) {
        if (bad_count < BAD && key_of(NULL, fd, bad[bad_count]) >= 0) bad_count++;
        done = -1;
    } else if (!no_sync && call(fd)) {
        done = -1;
    } else if (!fstat(fd, &st)) {
        if (S_ISDIR(st.st_mode)) keep_dir(path, 0);
        else keep_bytes(fd);
        if (!S_ISDIR(st.st_mode) && ext4_model && !gone) keep_names_above(path);
    }
    leave();
    return done;
}

int fsync(int fd) { return fd_inside(fd) ? do_sync("fsync", fd, REAL(fsync)) : REAL(fsync)(fd); }
int fdatasync(int fd) { return fd_inside(fd) ? do_sync("fdatasync", fd, REAL(fdatasync)) : REAL(fdatasync)(fd); }

static void keep_all(void) {
    enter();
    op("sync", root, 0);
    keep_dir(root, 1);
    leave();
}
void sync(void) {
    if (on) keep_all();
    if (!on || !no_sync) REAL(sync)();
}
int syncfs(int fd) {
    if (fd_inside(fd)) keep_all();
    return on && no_sync ? 0 : REAL(syncfs)(fd);
}

static int do_open(int dir_fd, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    const char *kind = NULL;
    struct stat st;
    if ((flags & (O_CREAT | O_TRUNC)) && path_inside(dir_fd, path, whole)) {
        int exists = !lstat(whole, &st);
        kind = !exists && (flags & O_CREAT) ? "create" : exists && (flags & O_TRUNC) && st.st_size ? "otrunc" : NULL;
    }
    int fd = -1;
    if (kind) enter();
    if (!kind || op(kind, whole, 0) != FAIL) fd = syscall(SYS_openat, dir_fd, path, flags, mode);
    forget_fd(fd);
    if (kind) leave();
    return fd;
}

#define MODE                                  \
    mode_t mode = 0;                          \
    if (flags & (O_CREAT | O_TMPFILE)) {      \
        va_list rest;                         \
        va_start(rest, flags);                \
        mode = va_arg(rest, int);             \
        va_end(rest);                         \
    }
int open(const char *path, int flags, ...) { MODE return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return do_open(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dir_fd, const char *path, int flags, ...) { MODE return do_open(dir_fd, path, flags, mode); }
int openat64(int dir_fd, const char *path, int flags, ...) { MODE return do_open(dir_fd, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static FILE *do_fopen(const char *path, const char *mode, FILE *(*call)(const char *, const char *)) {
    char whole[PATH_MAX];
    struct stat st;
    FILE *file = NULL;
    int counts = *mode != 'r' && path_inside(AT_FDCWD, path, whole) && lstat(whole, &st);
    if (counts) enter();
    if (!counts || op("create", whole, 0) != FAIL) file = call(path, mode);
    if (file) forget_fd(fileno(file));
    if (counts) leave();
    return file;
}
FILE *fopen(const char *path, const char *mode) { return do_fopen(path, mode, REAL(fopen)); }
FILE *fopen64(const char *path, const char *mode) { return do_fopen(path, mode, REAL(fopen64)); }

int close(int fd) {
    forget_fd(fd);
    return syscall(SYS_close, fd);
}
int dup2(int from, int to) {
    forget_fd(to);
    return REAL(dup2)(from, to);
}
int dup3(int from, int to, int flags) {
    forget_fd(to);
    return syscall(SYS_dup3, from, to, flags);
}

/* Ops on names. */
#define NAME_OP(kind, dir_fd, path, call)                     \
    do {                                                      \
        char path_[PATH_MAX];                                 \
        if (!path_inside(dir_fd, path, path_)) return call;   \
        enter();                                              \
        int done_ = op(kind, path_, 0) == FAIL ? -1 : (int)(call); \
        leave();                                              \
        return done_;                                         \
    } while (0)

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    NAME_OP("rename", to_fd, to, syscall(SYS_renameat2, from_fd, from, to_fd, to, flags));
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) { return renameat2(from_fd, from, to_fd, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int unlinkat(int dir_fd, const char *path, int flags) {
    NAME_OP(flags & AT_REMOVEDIR ? "rmdir" : "unlink", dir_fd, path, syscall(SYS_unlinkat, dir_fd, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    NAME_OP("link", to_fd, to, syscall(SYS_linkat, from_fd, from, to_fd, to, flags));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlinkat(const char *target, int dir_fd, const char *path) {
    NAME_OP("symlink", dir_fd, path, syscall(SYS_symlinkat, target, dir_fd, path));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }
int mkdirat(int dir_fd, const char *path, mode_t mode) { NAME_OP("mkdir", dir_fd, path, syscall(SYS_mkdirat, dir_fd, path, mode)); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int truncate(const char *path, off_t n) { NAME_OP("truncate", AT_FDCWD, path, syscall(SYS_truncate, path, n)); }
