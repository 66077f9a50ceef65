// SPDX-License-Identifier: Apache-2.0
// mqttload: single-threaded epoll MQTT 3.1.1 load generator. gcc -O2 -o mqttload mqttload.c
//   load: mqttload -P port -p pubs -s subs -q 0|1 -w window -b bytes -d seconds [-r msgs/s] [-W warm s] [-k burst] [-i pid,pid]
//   idle: mqttload -P port -n conns -H hold_s [-i pid,pid]
// One JSON line on stdout. Publisher i sends to bench/<i>/t; with one publisher a subscriber asks for bench/0/t,
// else for bench/+/t (-x: subscriber j asks for bench/<j>/t: pairs). Flow control: QoS 0 keeps
// sent-delivered <= window over all publishers (nothing is dropped, so "delivered" is honest); QoS 1 keeps window
// unacknowledged per publisher AND sent-delivered <= 4*window*pubs. No progress for 500 ms counts the rest as lost.
// -k 1 with many publishers and window < publishers is the fleet shape: one message per socket per read.
// -r paces the sends (open loop) and reports latency, of deliveries and with QoS 1 of PUBACKs. cpu_us_msg: utime+stime of the -i pids over the window,
// per publish and per delivery.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
	int fd, sub, idx, infl, want_out;
	uint16_t pid;
	uint8_t *rb; int rlen;
	uint8_t *wb; int wlen, woff, wcap;
	uint8_t *tpl; int tlen, pidoff, payoff;
	uint64_t *at;  // when each packet id was sent
} conn;

static int port = 1883, npub = 1, nsub = 1, qos, window = 1000, bytes = 128, nconn, pairs, burst = 32;
static double dur = 5, warm = 1, rate, hold = 5;
static char *host = "127.0.0.1", *prefix = "ml";
static int pids[16], npids, ep;
static uint64_t sent, acked, delivered, lost, base_sent;
#define RB (256 * 1024)
#define NH 200000
typedef struct { uint32_t *n; uint64_t count; } hist;  // 10 us buckets up to 2 s
static hist dlv, ack;
static void lat(hist *h, uint64_t ns) { uint64_t k = ns / 10000; h->n[k < NH ? k : NH - 1]++; h->count++; }
static void clear(hist *h) { memset(h->n, 0, NH * 4); h->count = 0; }

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static uint64_t nowns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void die(const char *m) { perror(m); exit(1); }

static double cpu_s(void) {
	double tot = 0;
	for (int i = 0; i < npids; i++) {
		char p[64], b[1024]; snprintf(p, sizeof p, "/proc/%d/stat", pids[i]);
		int fd = open(p, O_RDONLY); if (fd < 0) continue;
		int n = read(fd, b, sizeof b - 1); close(fd); b[n > 0 ? n : 0] = 0;
		char *c = strrchr(b, ')'); unsigned long u = 0, s = 0;
		if (c) sscanf(c + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s);
		tot += (double)(u + s) / sysconf(_SC_CLK_TCK);
	}
	return tot;
}
static long rss_kb(void) {
	long tot = 0;
	for (int i = 0; i < npids; i++) {
		char p[64], l[256]; long k; snprintf(p, sizeof p, "/proc/%d/status", pids[i]);
		FILE *f = fopen(p, "r"); if (!f) continue;
		while (fgets(l, sizeof l, f)) if (sscanf(l, "VmRSS: %ld", &k) == 1) tot += k;
		fclose(f);
	}
	return tot;
}

static int dial(int i) {
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	inet_pton(AF_INET, host, &a.sin_addr);
	struct sockaddr_in l = {.sin_family = AF_INET};  // spread source addresses over 127.0.0.0/8
	l.sin_addr.s_addr = htonl(0x7f000002 + i / 20000);
	if (!strncmp(host, "127.", 4)) { setsockopt(fd, SOL_IP, 24 /*IP_BIND_ADDRESS_NO_PORT*/, &one, sizeof one); bind(fd, (void *)&l, sizeof l); }
	if (connect(fd, (void *)&a, sizeof a)) die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}
static int mk_connect(uint8_t *b, const char *id) {
	int n = strlen(id), r = 12 + n;
	uint8_t h[] = {0x10, r, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 4, 0xb0, 0, n};  // clean session, keepalive 1200
	memcpy(b, h, 14); memcpy(b + 14, id, n); return 14 + n;
}
static void readn(int fd, uint8_t *b, int n) { while (n) { int r = read(fd, b, n); if (r <= 0) die("read"); b += r; n -= r; } }

static void flush(conn *c) {
	while (c->woff < c->wlen) {
		int r = write(c->fd, c->wb + c->woff, c->wlen - c->woff);
		if (r < 0) { if (errno == EAGAIN) break; die("write"); }
		c->woff += r;
	}
	int need = c->woff < c->wlen;
	if (!need) c->wlen = c->woff = 0;
	if (need != c->want_out) {
		c->want_out = need;
		struct epoll_event e = {.events = EPOLLIN | (need ? EPOLLOUT : 0), .data.ptr = c};
		epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
	}
}
static uint8_t *room(conn *c, int n) {
	if (c->woff && c->wlen + n > c->wcap) { memmove(c->wb, c->wb + c->woff, c->wlen - c->woff); c->wlen -= c->woff; c->woff = 0; }
	if (c->wlen + n > c->wcap) { while (c->wlen + n > c->wcap) c->wcap = c->wcap ? c->wcap * 2 : 4096; c->wb = realloc(c->wb, c->wcap); }
	uint8_t *p = c->wb + c->wlen; c->wlen += n; return p;
}

static void on_read(conn *c) {
	int r = read(c->fd, c->rb + c->rlen, RB - c->rlen);
	if (r == 0) { fprintf(stderr, "peer closed %s %d\n", c->sub ? "sub" : "pub", c->idx); exit(2); }
	if (r < 0) { if (errno == EAGAIN) return; die("read"); }
	c->rlen += r;
	uint8_t *p = c->rb, *e = p + c->rlen; uint64_t t = rate > 0 ? nowns() : 0;
	while (e - p >= 2) {
		uint32_t len = 0; int sh = 0; uint8_t *q = p + 1;
		while (q < e) { len |= (*q & 127u) << sh; sh += 7; if (!(*q++ & 128)) { sh = -1; break; } }
		if (sh != -1 || e - q < len) break;
		if ((*p & 0xf0) == 0x30) {
			delivered++;
			uint8_t *b = q + 2 + (q[0] << 8 | q[1]);
			if (*p & 6) { uint8_t *w = room(c, 4); w[0] = 0x40; w[1] = 2; w[2] = b[0]; w[3] = b[1]; b += 2; }
			if (rate > 0) { uint64_t ts; memcpy(&ts, b, 8); lat(&dlv, t - ts); }
		} else if ((*p & 0xf0) == 0x40) { acked++; c->infl--; if (c->at) lat(&ack, t - c->at[q[0] << 8 | q[1]]); }
		p = q + len;
	}
	c->rlen = e - p; if (c->rlen) memmove(c->rb, p, c->rlen);
	if (c->wlen) flush(c);
}
static void put(conn *c, uint64_t ts) {
	uint8_t *w = room(c, c->tlen); memcpy(w, c->tpl, c->tlen);
	if (qos) { if (!++c->pid) c->pid = 1; w[c->pidoff] = c->pid >> 8; w[c->pidoff + 1] = c->pid; c->infl++; if (c->at) c->at[c->pid] = ts; }
	memcpy(w + c->payoff, &ts, 8); sent++;
}
static conn *mk(int sub, int i) {
	conn *c = calloc(1, sizeof *c); uint8_t b[512]; char s[64];
	c->fd = dial(i); c->sub = sub; c->idx = i; c->rb = malloc(RB);
	snprintf(s, sizeof s, "%s-%s%d", prefix, sub ? "s" : "p", i);
	int n = mk_connect(b, s); if (write(c->fd, b, n) != n) die("write");
	readn(c->fd, b, 4); if (b[0] != 0x20 || b[3]) { fprintf(stderr, "connack %02x %d\n", b[0], b[3]); exit(3); }
	if (sub) {
		if (pairs) snprintf(s, sizeof s, "bench/%d/t", i); else snprintf(s, sizeof s, npub > 1 ? "bench/+/t" : "bench/0/t");
		int l = strlen(s); uint8_t h[] = {0x82, 5 + l, 0, 1, 0, l}; memcpy(b, h, 6); memcpy(b + 6, s, l); b[6 + l] = qos;
		if (write(c->fd, b, 7 + l) != 7 + l) die("write");
		readn(c->fd, b, 5); if (b[0] != 0x90 || b[4] > 2) { fprintf(stderr, "suback %02x %02x\n", b[0], b[4]); exit(3); }
	} else {
		snprintf(s, sizeof s, "bench/%d/t", i); int l = strlen(s), rem = 2 + l + (qos ? 2 : 0) + bytes;
		c->tpl = calloc(1, rem + 8); uint8_t *p = c->tpl; *p++ = 0x30 | qos << 1;
		int x = rem; do { *p = x & 127; x >>= 7; if (x) *p |= 128; p++; } while (x);
		*p++ = 0; *p++ = l; memcpy(p, s, l); p += l; c->pidoff = p - c->tpl; if (qos) p += 2;
		if (qos && rate > 0) c->at = calloc(65536, sizeof *c->at);
		c->payoff = p - c->tpl; memset(p, 'x', bytes); c->tlen = p + bytes - c->tpl;
	}
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
	return c;
}
static double pct(hist *h, double q) { uint64_t k = 0, want = h->count * q; for (int i = 0; i < NH; i++) { k += h->n[i]; if (k > want) return (i + 0.5) * 0.01; } return NH * 0.01; }

static int run_load(void) {
	ep = epoll_create1(0); dlv.n = calloc(NH, 4); ack.n = calloc(NH, 4);
	conn **pub = calloc(npub, sizeof *pub);
	for (int i = 0; i < nsub; i++) mk(1, i);
	for (int i = 0; i < npub; i++) pub[i] = mk(0, i);
	uint64_t fan = pairs ? 1 : nsub, cap = qos ? 4ull * window * npub : window, s0 = 0, d0 = 0, a0 = 0, last = 0, rot = 0;
	if (nsub > 1 && !pairs) cap = cap / nsub < 4 ? 4 : cap / nsub;
	double t0 = now(), tm = t0 + warm, te = tm + dur, prog = t0, c0 = 0, g0 = 0, ts = t0; int measuring = 0;
	struct epoll_event ev[512];
	for (;;) {
		double t = now();
		if (!measuring && t >= tm) { measuring = 1; s0 = sent; d0 = delivered; a0 = acked; c0 = cpu_s(); g0 = clock() / (double)CLOCKS_PER_SEC; ts = t; clear(&dlv); clear(&ack); }
		if (t >= te) break;
		if (delivered + acked != last) { last = delivered + acked; prog = t; }
		else if (t - prog > 0.5 && rate <= 0) { uint64_t out = sent * fan > delivered ? sent * fan - delivered : 0; if (out > base_sent) { lost += out - base_sent; base_sent = out; } prog = t; }
		uint64_t w = nowns();
		if (rate > 0) {
			uint64_t due = (t - t0) * rate;
			while (sent < due) { conn *c = pub[rot++ % npub]; put(c, w); flush(c); }
		} else {
			int full = 0;  // fill publishers round robin, in runs of -k
			while (full < npub) {
				conn *c = pub[rot++ % npub]; int k = 0;
				while (k < burst && (sent * fan - delivered - base_sent) < cap * fan && (!qos || c->infl < window) && c->wlen < 65536) { put(c, w); k++; }
				if (k) { full = 0; if (npub > 1 || c->wlen > 32768) flush(c); } else { if (c->wlen) flush(c); full++; }
			}
		}
		int n = epoll_wait(ep, ev, 512, rate > 0 ? 0 : 50);
		for (int i = 0; i < n; i++) { conn *c = ev[i].data.ptr; if (ev[i].events & EPOLLOUT) flush(c); if (ev[i].events & ~EPOLLOUT) on_read(c); }
	}
	double el = now() - ts, cpu = cpu_s() - c0, gen = clock() / (double)CLOCKS_PER_SEC - g0;
	uint64_t ds = sent - s0, dd = delivered - d0, da = acked - a0;
	printf("{\"pubs\":%d,\"burst\":%d,\"subs\":%d,\"qos\":%d,\"window\":%d,\"bytes\":%d,\"sent_s\":%.0f,\"delivered_s\":%.0f,\"acked_s\":%.0f,\"lost\":%lu,"
		"\"broker_cpu\":%.2f,\"gen_cpu\":%.2f,\"cpu_us_pub\":%.3f,\"cpu_us_dlv\":%.3f",
		npub, burst, nsub, qos, window, bytes, ds / el, dd / el, da / el, lost, cpu / el, gen / el, ds ? cpu * 1e6 / ds : 0, dd ? cpu * 1e6 / dd : 0);
	if (rate > 0) printf(",\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"p999_ms\":%.2f", pct(&dlv, .5), pct(&dlv, .99), pct(&dlv, .999));
	if (rate > 0 && qos) printf(",\"ack_p50_ms\":%.2f,\"ack_p99_ms\":%.2f", pct(&ack, .5), pct(&ack, .99));
	printf("}\n"); return 0;
}

static int run_idle(void) {
	int *fds = calloc(nconn, sizeof *fds); uint8_t b[256]; char s[64];
	long r0 = rss_kb(); double c0 = cpu_s(), t0 = now();
	for (int i = 0; i < nconn; i++) {
		fds[i] = dial(i); snprintf(s, sizeof s, "%s-i%d", prefix, i); int n = mk_connect(b, s);
		if (write(fds[i], b, n) != n) die("write");
		readn(fds[i], b, 4); if (b[0] != 0x20 || b[3]) { fprintf(stderr, "connack\n"); return 1; }
	}
	double el = now() - t0, cpu = cpu_s() - c0; usleep(500000);
	long r1 = rss_kb(); double c1 = cpu_s(); usleep(hold * 1e6); double ci = (cpu_s() - c1) / hold;
	printf("{\"conns\":%d,\"connects_s\":%.0f,\"cpu_us_conn\":%.0f,\"rss_kb_conn\":%.2f,\"rss0_mb\":%.1f,\"rss1_mb\":%.1f,\"idle_cpu\":%.3f}\n",
		nconn, nconn / el, cpu * 1e6 / nconn, (r1 - r0) / (double)nconn, r0 / 1024., r1 / 1024., ci);
	return 0;
}

int main(int argc, char **argv) {
	int o;
	while ((o = getopt(argc, argv, "h:P:p:s:q:w:b:d:r:W:i:n:H:c:k:x")) != -1) switch (o) {
		case 'h': host = optarg; break;   case 'P': port = atoi(optarg); break;
		case 'p': npub = atoi(optarg); break; case 's': nsub = atoi(optarg); break;
		case 'q': qos = atoi(optarg); break;  case 'w': window = atoi(optarg); break;
		case 'b': bytes = atoi(optarg); break; case 'd': dur = atof(optarg); break;
		case 'r': rate = atof(optarg); break; case 'W': warm = atof(optarg); break;
		case 'n': nconn = atoi(optarg); break; case 'H': hold = atof(optarg); break;
		case 'c': prefix = optarg; break;
		case 'x': pairs = 1; break;           case 'k': burst = atoi(optarg); break;
		case 'i': for (char *p = strtok(optarg, ","); p && npids < 16; p = strtok(NULL, ",")) pids[npids++] = atoi(p); break;
		default: return 64;
	}
	if (bytes < 8) bytes = 8;
	return nconn ? run_idle() : run_load();
}
