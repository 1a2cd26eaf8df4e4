/* The wall clock of one process, set by a file while it runs; the monotonic clock stays true. For LD_PRELOAD.

   The file named by $WALL_CLOCK holds two numbers: how many seconds the clock is ahead, and what adjtimex(2) answers
   (0: synchronized, 5: not). */

#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static int setting(double *ahead_s) {
    int answer = TIME_ERROR;
    const char *path = getenv("WALL_CLOCK");
    FILE *file = path ? fopen(path, "re") : NULL;
    *ahead_s = 0.0;
    if (file) {
        if (fscanf(file, "%lf %d", ahead_s, &answer) != 2) answer = TIME_ERROR;
        fclose(file);
    }
    return answer;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, which, now);
    if (result == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        double ahead_s;
        setting(&ahead_s);
        double whole_s = floor(ahead_s);
        now->tv_sec += (time_t)whole_s;
        now->tv_nsec += (long)((ahead_s - whole_s) * 1e9);
        if (now->tv_nsec >= 1000000000L) {
            now->tv_nsec -= 1000000000L;
            now->tv_sec += 1;
        }
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (result) *result = precise.tv_sec;
    return precise.tv_sec;
}

int adjtimex(struct timex *asked) {
    double ahead_s;
    (void)asked;
    return setting(&ahead_s);
}
