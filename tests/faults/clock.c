/* A clock that a test sets: shifts CLOCK_REALTIME by the seconds in a mapped file. For LD_PRELOAD.
 *
 * The file is mapped before the program enters its sandbox, which may not open it later.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile long *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void map_offset(void)
{
	const char *path = getenv("CLOCK_OFFSET_FILE");
	int file = path ? open(path, O_RDONLY) : -1;
	void *page = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);

	if (page == MAP_FAILED)
		abort();
	close(file);
	offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	if (!real)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(clock, now);
	if (clock == CLOCK_REALTIME && offset)
		now->tv_sec += *offset;
	return result;
}
