/* An extended attribute of each file that it was given. */
#include <stdio.h>
#include <sys/xattr.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char value[256];
        ssize_t size = lgetxattr(argv[i], "user.note", value, sizeof value);
        printf("%s: %.*s\n", argv[i], size < 0 ? 4 : (int)size, size < 0 ? "none" : value);
    }
    return 0;
}
