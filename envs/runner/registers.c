/* Loaded into User-Mode Linux 6.1, which takes a process's extended registers to be 2,696 bytes long. A processor with AMX has more, and
 * since the kernel takes nothing but the whole (regset `NT_X86_XSTATE`: ptrace(2); `xstateregs_set` in arch/x86/kernel/fpu/regset.c, else
 * EFAULT), no process of the guest would start there. What is set is laid over what the process has, and set as a whole.
 * User-Mode Linux asks for the size itself from 6.13 on. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* More than any processor's: XTILEDATA ends at 11,008. */
static unsigned char whole[64 * 1024];

long ptrace(enum __ptrace_request request, ...)
{
    va_list words;
    va_start(words, request);
    pid_t pid = va_arg(words, pid_t);
    void *address = va_arg(words, void *);
    void *data = va_arg(words, void *);
    va_end(words);

    /* As the C library does: what is peeked comes by a pointer from the kernel, and is what the function returns. */
    long peeked;
    int peeks = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;
    long result = syscall(SYS_ptrace, request, pid, address, peeks ? &peeked : data);
    if (peeks && result == 0) {
        errno = 0;
        return peeked;
    }
    if (result == 0 || errno != EFAULT || request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE)
        return result;
    const struct iovec *part = data;
    struct iovec all = {whole, sizeof whole};
    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &all) != 0)
        return -1;
    if (part->iov_len >= all.iov_len) {
        errno = EFAULT;
        return -1;
    }
    memcpy(whole, part->iov_base, part->iov_len);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, address, &all);
}
