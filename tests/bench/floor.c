// What the kernel alone takes: a bare pread loop over files that are held open.
//
// usage: floor LIST ROUNDS PAUSE_MS
//
// LIST names a file with a path a line. Reads every file to its end, ROUNDS times, with a pause before each round so
// that caches are as cold as a broker finds them. Prints a line a round: nanoseconds of CPU. A file that is gone, as a
// process may be, is passed by; exit status 1 when more than a twentieth are (and ten), or one cannot be opened.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static long long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int count, char **arguments) {
    static char path[8192], buffer[16 << 10]; // the broker asks for as much at a time
    if (count != 4) {
        fprintf(stderr, "usage: floor LIST ROUNDS PAUSE_MS\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    FILE *list = fopen(arguments[1], "r");
    int *files = calloc(limit.rlim_max, sizeof *files), held = 0, gone = 0;
    if (!list || !files) {
        perror(arguments[1]);
        return 1;
    }
    while (fgets(path, sizeof path, list)) {
        path[strcspn(path, "\n")] = 0;
        files[held] = open(path, O_RDONLY);
        if (files[held] >= 0) {
            held++;
        } else if (errno != ENOENT || ++gone > 10 + held / 20) {
            perror(path);
            return 1;
        }
    }
    for (int round = atoi(arguments[2]); round > 0; round--) {
        usleep(atoi(arguments[3]) * 1000);
        long long start = nanoseconds();
        for (int file = 0; file < held; file++) {
            off_t offset = 0;
            ssize_t got;
            while ((got = pread(files[file], buffer, sizeof buffer, offset)) > 0)
                offset += got;
        }
        printf("%lld\n", nanoseconds() - start);
    }
    return 0;
}
