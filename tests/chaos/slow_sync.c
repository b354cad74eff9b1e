/* Makes the syncs of one process slow, or fail: LD_PRELOAD this, and write "MILLISECONDS ERRNO" into the file that
 * SLOW_SYNC names. Read anew for each sync; "0 0", or no file, changes nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int disturbed(void) {
  const char *path = getenv("SLOW_SYNC");
  char text[64] = {0};
  long ms = 0;
  int error = 0;
  if (!path) return 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  if (read(fd, text, sizeof text - 1) > 0) sscanf(text, "%ld %d", &ms, &error);
  close(fd);
  if (ms > 0) {
    struct timespec span = {ms / 1000, (ms % 1000) * 1000000L};
    nanosleep(&span, 0);
  }
  return error;
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  int error = disturbed();
  if (error) { errno = error; return -1; }
  return real(fd);
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  int error = disturbed();
  if (error) { errno = error; return -1; }
  return real(fd);
}
