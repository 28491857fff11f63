/* What a program broken into would try, from inside a container: a line an attempt, its name and how it ended.
 *
 * usage: attack broker|exporter PID [PROC SYS SOCKETS]
 *
 * PID is a process of the host that belongs to root. "done" means that an attempt went through, an errno's name that it did
 * not. Nothing is harmed where one goes through: files are opened and not written to, what is made is removed, and each
 * attempt has a process of its own. Static, since it replaces the one file of an image.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *victim, *proc = "/host/proc", *sys = "/host/sys", *sockets = "/run/keyhole";

static char *below(const char *root, const char *path)
{
    char *joined;
    return asprintf(&joined, "%s/%s", root, path) < 0 ? NULL : joined;
}

/* Opens and nothing more. */
static int opens(const char *root, const char *path, int flags)
{
    return open(below(root, path), flags | O_CLOEXEC);
}

/* The same of a file of the victim's. */
static int opens_victims(const char *path, int flags)
{
    return opens(below(proc, victim), path, flags);
}

/* Makes a file and removes it. */
static int makes(const char *root, const char *path)
{
    char *name = below(root, path);
    int made = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (made >= 0)
        unlink(name);
    return made;
}

/* Of the host's files. */
static int write_sysctl(void) { return opens(proc, "sys/kernel/core_pattern", O_WRONLY); }
static int write_sysrq(void) { return opens(proc, "sysrq-trigger", O_WRONLY); }
static int write_oom_score(void) { return opens_victims("oom_score_adj", O_WRONLY); }
static int write_sysfs(void) { return opens(sys, "class/net/lo/mtu", O_WRONLY); }
static int write_cgroup(void)
{
    int v1 = opens(sys, "fs/cgroup/pids/cgroup.procs", O_WRONLY);
    return v1 >= 0 || errno != ENOENT ? v1 : opens(sys, "fs/cgroup/cgroup.procs", O_WRONLY);
}
static int remount_proc(void) { return mount(NULL, proc, NULL, MS_REMOUNT | MS_BIND, NULL); }
static int read_host_root(void) { return opens_victims("root/etc/passwd", O_RDONLY); }
static int read_host_cwd(void) { return opens_victims("cwd", O_RDONLY); }
static int read_environment(void) { return opens_victims("environ", O_RDONLY); }
static int read_memory(void) { return opens_victims("mem", O_RDONLY); }
static int read_descriptors(void) { return opens_victims("fd", O_RDONLY | O_DIRECTORY); }
static int read_kernel_memory(void) { return opens(proc, "kcore", O_RDONLY); }
static int read_kernel_log(void) { return opens(proc, "kmsg", O_RDONLY | O_NONBLOCK); }
static int enter_host_network(void)
{
    int namespace = opens_victims("ns/net", O_RDONLY);
    return namespace < 0 ? -1 : setns(namespace, CLONE_NEWNET);
}
/* A directory of any procfs is a descriptor of its process. Signal 0 only asks. */
static int signal_host(void)
{
    int process = opens_victims(".", O_RDONLY | O_DIRECTORY);
    return process < 0 ? -1 : (int)syscall(SYS_pidfd_send_signal, process, 0, NULL, 0);
}
/* Sees a process of the host by its own procfs: PID 2 is the kernel's. */
static int see_host(void) { return opens("/proc", "2/status", O_RDONLY); }

/* Of the container. */
static int write_root(void) { return makes("/", "keyhole-attack"); }
static int write_sockets(void) { return makes(sockets, "keyhole-attack"); }
static int write_own_sysctl(void) { return opens("/proc", "sys/kernel/core_pattern", O_WRONLY); }
static int write_own_sysfs(void) { return opens("/sys", "kernel/mm/transparent_hugepage/enabled", O_WRONLY); }
static int run_shell(void) { return execl("/bin/sh", "sh", "-c", "echo done", (char *)NULL); }

/* Of the kernel. */
static int become_root(void) { return setuid(0); }
static int raw_socket(void) { return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
static int packet_socket(void) { return socket(AF_PACKET, SOCK_RAW, 0); }
static int mount_tmpfs(void) { return mount("tmpfs", "/proc", "tmpfs", 0, NULL); }
static int new_mount_api(void) { return (int)syscall(SYS_fsopen, "tmpfs", 0); }
static int user_namespace(void) { return unshare(CLONE_NEWUSER); }
/* Who is root there still may not undo what was mounted read-only outside. */
static int remount_in_user_namespace(void)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
        return -1;
    return mount(NULL, proc, NULL, MS_REMOUNT | MS_BIND, NULL);
}
static int mount_namespace(void) { return unshare(CLONE_NEWNS); }
static int change_root(void) { return chroot("/proc"); }
static int make_device(void)
{
    char *name = below(sockets, "keyhole-attack");
    int made = mknod(name, S_IFBLK | 0600, makedev(1, 0));
    if (made == 0)
        unlink(name);
    return made;
}
static int load_program(void)
{
    union bpf_attr attributes = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
}
static int watch_kernel(void)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes};
    return (int)syscall(SYS_perf_event_open, &attributes, -1, 0, -1, 0);
}
static int load_module(void) { return (int)syscall(SYS_finit_module, -1, "", 0); }
static int open_by_handle(void) { return (int)syscall(SYS_open_by_handle_at, -1, NULL, 0); }
static int take_keyring(void) { return (int)syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1); }

struct attempt {
    const char *name;
    int (*act)(void);
    int brokers_too;
};

#define BOTH(act) {#act, act, 1}
/* The broker makes its socket. */
#define EXPORTER(act) {#act, act, 0}

static const struct attempt attempts[] = {
    BOTH(write_sysctl), BOTH(write_sysrq), BOTH(write_oom_score), BOTH(write_sysfs), BOTH(write_cgroup),
    BOTH(remount_proc), BOTH(read_host_root), BOTH(read_host_cwd), BOTH(read_environment), BOTH(read_memory),
    BOTH(read_descriptors), BOTH(read_kernel_memory), BOTH(read_kernel_log), BOTH(enter_host_network),
    BOTH(signal_host), BOTH(see_host),
    BOTH(write_root), EXPORTER(write_sockets), BOTH(write_own_sysctl), BOTH(write_own_sysfs), BOTH(run_shell),
    BOTH(become_root), BOTH(raw_socket), BOTH(packet_socket), BOTH(mount_tmpfs), BOTH(new_mount_api),
    BOTH(user_namespace), BOTH(remount_in_user_namespace), BOTH(mount_namespace), BOTH(change_root), BOTH(make_device), BOTH(load_program),
    BOTH(watch_kernel), BOTH(load_module), BOTH(open_by_handle), BOTH(take_keyring),
};

/* The kernel's account of this process, which the test compares. */
static void tell_status(void)
{
    char line[512];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "Uid", 3) || !strncmp(line, "Gid", 3) || !strncmp(line, "Groups", 6) || !strncmp(line, "Cap", 3) ||
            !strncmp(line, "NoNewPrivs", 10) || !strncmp(line, "Seccomp", 7))
            printf("status %s", line);
}

int main(int count, char **arguments)
{
    if (count != 3 && count != 6)
        return fputs("usage: attack broker|exporter PID [PROC SYS SOCKETS]\n", stderr), 2;
    int exporter = !strcmp(arguments[1], "exporter");
    victim = arguments[2];
    if (count == 6)
        proc = arguments[3], sys = arguments[4], sockets = arguments[5];
    tell_status();
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
        if (!exporter && !attempts[i].brokers_too)
            continue;
        printf("attempt %s ", attempts[i].name);
        fflush(stdout);
        pid_t child = fork();
        if (child < 0)
            return perror("fork"), 1;
        if (child == 0) {
            alarm(10);
            int done = attempts[i].act();
            puts(done >= 0 ? "done" : strerrorname_np(errno));
            fflush(stdout);
            _exit(0);
        }
        int how = 0;
        if (waitpid(child, &how, 0) == child && WIFSIGNALED(how))
            printf("SIG%s\n", sigabbrev_np(WTERMSIG(how)));
    }
    return puts("end") < 0;
}
