/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_fuzz.c - replies that are almost right, through the parser: bytes
 * changed, cut, repeated, with any number of descriptors. The sanitizers and
 * the count of descriptors are the judges. PF_FUZZ_ROUNDS, PF_FUZZ_SEED. */
#include "fake_daemon.h"
#include "gate_socket.h"
#include "pipefill.h"
#include "tap.h"

static const char *const parts[] = {
	"ok\n",         "none\n",      "error\n", "wait\n", "message=",
	"device=cpu:0", "device=\n",   "mode=",   "=\n",    "\n",
	"assignment=7", "\ndevice=x=", "%s%n",    "\r\n",   "\xff\xfe",
};

/* A reply of pieces of good ones, a few bytes of it changed. */
static size_t make_reply(unsigned *seed, char *text, size_t size)
{
	size_t length = 0, i, pieces = (size_t) rand_r(seed) % 8;

	if (rand_r(seed) % 4) {
		memcpy(text, "ok\n", 3);
		length = 3;
	}
	for (i = 0; i < pieces; i++) {
		const char *part = parts[(size_t) rand_r(seed) %
					 (sizeof(parts) / sizeof(parts[0]))];
		size_t n = strlen(part);

		if (length + n < size) {
			memcpy(text + length, part, n);
			length += n;
		}
	}
	if (!(rand_r(seed) % 16)) {
		size_t n = (size_t) rand_r(seed) % (size - length);

		memset(text + length, 'a', n);
		length += n;
	}
	for (i = (size_t) rand_r(seed) % 4; i > 1 && length; i--)
		text[(size_t) rand_r(seed) % length] = (char) rand_r(seed);
	return length;
}

static int count_descriptors(void)
{
	int fd, count = 0;

	for (fd = 0; fd < 256; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			count++;
	return count;
}

struct server {
	int listener;
	unsigned seed;
	int fd[3];
};

static void *serve(void *arg)
{
	struct server *s = arg;
	char request[PF_MESSAGE_MAX], text[PF_MESSAGE_MAX + 64];

	for (;;) {
		int client = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
		size_t length;

		if (client < 0)
			return NULL;
		if (recv(client, request, sizeof(request), 0) > 0) {
			length = make_reply(&s->seed, text, sizeof(text));
			fake_send(client, text, length, s->fd,
				  (size_t) rand_r(&s->seed) % 4);
		}
		close(client);
	}
}

static void values_are_bounded(const struct pf_reply *reply, int *wrong)
{
	static const char *const keys[] = { "device", "mode", "message", "" };
	char value[8];
	size_t i;

	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		memset(value, 'z', sizeof(value));
		pf_message_value(reply, keys[i], value, sizeof(value));
		if (!memchr(value, '\0', sizeof(value)) || strchr(value, '\n'))
			(*wrong)++;
	}
}

static int number(const char *name, int otherwise)
{
	const char *text = getenv(name);

	return text ? atoi(text) : otherwise;
}

static void test_replies(struct fake_daemon *d)
{
	int i, rounds = number("PF_FUZZ_ROUNDS", 3000), wrong = 0, opened = 0;
	int answered = 0, before = count_descriptors();
	struct pf_reply reply;
	struct pf_error error;

	for (i = 0; i < rounds; i++) {
		struct pf_main *main;

		if (!pf_gate_socket_open(d->dir, "open-main", "cpu:0", 5000,
					 &reply, &error)) {
			answered++;
			values_are_bounded(&reply, &wrong);
			pf_message_close(&reply);
		}
		main = pf_open("0");
		if (main) {
			opened++;
			pf_bubble_begin(main, PF_STEADY, 0);
		}
		pf_close(main);
	}
	tap_ok(!wrong, "%d replies: every value is bounded and of one line",
	       rounds);
	tap_ok(answered > rounds / 20 && answered < rounds,
	       "%d of them were taken for answers", answered);
	tap_ok(opened > 0 && opened < rounds,
	       "%d of as many opened, by chance with the right pages", opened);
	/* The server may hold its end of the last one. */
	tap_ok(count_descriptors() <= before + 1, "no descriptor leaks");
}

int main(void)
{
	struct fake_daemon d;
	struct server s = { 0 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	pthread_t thread;

	/* Its own socket in place of the fake's. */
	fake_start(&d, FAKE_HANG);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/gate.sock",
		 d.dir);
	unlink(address.sun_path);
	s.seed = (unsigned) number("PF_FUZZ_SEED", 7);
	memcpy(s.fd, d.fd, sizeof(s.fd));
	s.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (bind(s.listener, (struct sockaddr *) &address, sizeof(address)) ||
	    listen(s.listener, 8) || pthread_create(&thread, NULL, serve, &s))
		abort();
	test_replies(&d);
	shutdown(s.listener, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(s.listener);
	fake_stop(&d);
	return tap_done();
}
