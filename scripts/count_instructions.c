/* Counts the instructions that an emulated program executes. TCG plugin, API version 1 (QEMU 6.0 and later), declared here
   because Debian ships no header. The program marks a place with close(1000000000 + k), which fails and changes nothing:
   the plugin then writes "mark k TOTAL". */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t id_t_;
struct qemu_plugin_tb;
struct qemu_info;

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(id_t_, void (*)(id_t_, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(id_t_, void (*)(id_t_, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                                 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_atexit_cb(id_t_, void (*)(id_t_, void *), void *);

static const int64_t CLOSE = 57; /* of arm64 Linux */
static const uint64_t MARK = 1000000000;
static uint64_t total;

static void translated(id_t_ id, struct qemu_plugin_tb *block) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &total, qemu_plugin_tb_n_insns(block));
}

static void called(id_t_ id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                   uint64_t f, uint64_t g, uint64_t h) {
    (void)id, (void)cpu, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number == CLOSE && a >= MARK && a < 2 * MARK)
        fprintf(stderr, "mark %" PRIu64 " %" PRIu64 "\n", a - MARK, total);
}

static void ended(id_t_ id, void *data) {
    (void)id, (void)data;
    fprintf(stderr, "mark end %" PRIu64 "\n", total);
}

__attribute__((visibility("default"))) int qemu_plugin_install(id_t_ id, const struct qemu_info *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
