// franz-go in the scenarios of the package's docstring: client BOOTSTRAP SCENARIO VARIANT.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const count = 100

var (
	servers []string
	ctx     context.Context
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func check(holds bool, what ...any) {
	if !holds {
		panic(fmt.Sprintln(what...))
	}
}

func client(opts ...kgo.Opt) *kgo.Client {
	return must(kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(servers...)}, opts...)...))
}

func create(topic string, partitions int32) {
	admin := kadm.NewClient(client())
	defer admin.Close()
	made := must(admin.CreateTopic(ctx, partitions, 1, nil, topic))
	check(made.Err == nil, made.Err)
}

func read(topic string, n int, opts ...kgo.Opt) []*kgo.Record {
	consumer := client(append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))...)
	defer consumer.Close()
	var found []*kgo.Record
	for len(found) < n {
		fetches := consumer.PollFetches(ctx)
		check(fetches.Err() == nil, fetches.Err(), len(found))
		found = append(found, fetches.Records()...)
	}
	check(len(found) == n, len(found))
	return found
}

func value(i int) string { return fmt.Sprintf("value %d %s", i, strings.Repeat(".", 200)) }

func codec(name string) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	topic := "codec-" + name
	create(topic, 1)
	producer := client(kgo.ProducerBatchCompression(codecs[name]), kgo.ProducerLinger(50*time.Millisecond))
	defer producer.Close()
	var records []*kgo.Record
	for i := range count {
		n := strconv.Itoa(i)
		records = append(records, &kgo.Record{
			Topic: topic, Key: []byte("key " + n), Value: []byte(value(i)),
			Timestamp: time.UnixMilli(1_000_000_000_000 + int64(i)),
			Headers:   []kgo.RecordHeader{{Key: "n", Value: []byte(n)}},
		})
	}
	check(producer.ProduceSync(ctx, records...).FirstErr() == nil, "produce")
	for i, record := range read(topic, count) {
		n := strconv.Itoa(i)
		check(record.Offset == int64(i) && record.Timestamp.UnixMilli() == 1_000_000_000_000+int64(i), record)
		check(string(record.Key) == "key "+n && string(record.Value) == value(i), record)
		check(string(record.Headers[0].Value) == n, record)
	}
}

func transactions() {
	for _, topic := range []string{"tx", "tx-in", "tx-out"} {
		create(topic, 1)
	}
	producer := client(kgo.TransactionalID("t"), kgo.DefaultProduceTopic("tx"))
	for _, how := range []string{"committed", "aborted", "again"} {
		check(producer.BeginTransaction() == nil, "begin")
		for i := range 10 {
			check(producer.ProduceSync(ctx, kgo.StringRecord(fmt.Sprintf("%s %d", how, i))).FirstErr() == nil, "produce")
		}
		err := producer.EndTransaction(ctx, kgo.TransactionEndTry(how != "aborted"))
		check(err == nil, err)
	}
	producer.Close()
	committed := read("tx", 20, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	for i, record := range committed {
		how := "committed"
		if i >= 10 {
			how = "again"
		}
		check(string(record.Value) == fmt.Sprintf("%s %d", how, i%10), record)
	}
	check(string(read("tx", 30)[10].Value) == "aborted 0", "aborted records")

	plain := client(kgo.DefaultProduceTopic("tx-in"))
	for i := range 10 {
		check(plain.ProduceSync(ctx, kgo.StringRecord(strconv.Itoa(i))).FirstErr() == nil, "produce")
	}
	plain.Close()
	session := must(kgo.NewGroupTransactSession(
		kgo.SeedBrokers(servers...), kgo.TransactionalID("pipe"), kgo.DefaultProduceTopic("tx-out"),
		kgo.ConsumerGroup("tx-group"), kgo.ConsumeTopics("tx-in"), kgo.RequireStableFetchOffsets(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	))
	for done := 0; done < 10; {
		fetches := session.PollFetches(ctx)
		check(fetches.Err() == nil, fetches.Err())
		check(session.Begin() == nil, "begin")
		for _, record := range fetches.Records() {
			session.Produce(ctx, kgo.StringRecord("out "+string(record.Value)), nil)
		}
		if must(session.End(ctx, kgo.TryCommit)) {
			done += fetches.NumRecords()
		}
	}
	session.Close()
	check(string(read("tx-out", 10, kgo.FetchIsolationLevel(kgo.ReadCommitted()))[9].Value) == "out 9", "tx-out")

	old := client(kgo.TransactionalID("fenced"), kgo.DefaultProduceTopic("tx"))
	young := client(kgo.TransactionalID("fenced"), kgo.DefaultProduceTopic("tx"))
	check(old.BeginTransaction() == nil, "begin")
	check(old.ProduceSync(ctx, kgo.StringRecord("of a fenced producer")).FirstErr() == nil, "produce")
	check(young.BeginTransaction() == nil, "begin")
	check(young.ProduceSync(ctx, kgo.StringRecord("of the young one")).FirstErr() == nil, "produce")
	err := old.EndTransaction(ctx, kgo.TryCommit)
	check(errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.ProducerFenced), "the older producer was not fenced:", err)
	check(young.EndTransaction(ctx, kgo.TryCommit) == nil, "end")
	young.Close()
	old.CloseAllowingRebalance()
}

type member struct {
	client   *kgo.Client
	assigned map[int32]bool
	ended    chan struct{}
}

var (
	mu     sync.Mutex
	values []int
)

func join(topic, group, variant string) *member {
	m := &member{assigned: map[int32]bool{}, ended: make(chan struct{})}
	of := context.Background()
	opts := []kgo.Opt{
		kgo.SeedBrokers(servers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), kgo.HeartbeatInterval(200 * time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, given map[string][]int32) {
			mu.Lock()
			defer mu.Unlock()
			for _, partition := range given[topic] {
				m.assigned[partition] = true
			}
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, taken map[string][]int32) {
			mu.Lock()
			defer mu.Unlock()
			for _, partition := range taken[topic] {
				delete(m.assigned, partition)
			}
		}),
	}
	balancers := map[string]kgo.GroupBalancer{
		"range": kgo.RangeBalancer(), "roundrobin": kgo.RoundRobinBalancer(), "sticky": kgo.StickyBalancer(),
		"cooperative-sticky": kgo.CooperativeStickyBalancer(),
	}
	if variant == "consumer" {
		of = context.WithValue(of, "opt_in_kafka_next_gen_balancer_beta", true) //nolint:staticcheck // its documented key
	} else {
		opts = append(opts, kgo.Balancers(balancers[variant]))
	}
	opts = append(opts, kgo.WithContext(of))
	m.client = must(kgo.NewClient(opts...))
	go func() {
		defer close(m.ended)
		for {
			fetches := m.client.PollFetches(ctx)
			if fetches.IsClientClosed() {
				return
			}
			check(fetches.Err() == nil, fetches.Err())
			mu.Lock()
			for _, record := range fetches.Records() {
				values = append(values, must(strconv.Atoi(string(record.Value))))
			}
			mu.Unlock()
			err := m.client.CommitRecords(ctx, fetches.Records()...)
			check(err == nil, err)
			m.client.AllowRebalance()
		}
	}()
	return m
}

func (m *member) leave() {
	m.client.CloseAllowingRebalance()
	<-m.ended
}

func until(what string, holds func() bool) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		mu.Lock()
		done := holds()
		mu.Unlock()
		if done {
			return
		}
		check(time.Now().Before(end), "it never came to be that", what)
	}
}

func send(producer *kgo.Client, topic string, from, to int) {
	for i := from; i < to; i++ {
		record := &kgo.Record{Topic: topic, Partition: int32(i % 4), Value: []byte(strconv.Itoa(i))}
		check(producer.ProduceSync(ctx, record).FirstErr() == nil, "produce")
	}
}

func group(variant string) {
	topic, name := "shared-"+variant, "group-"+variant
	create(topic, 4)
	producer := client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	a, b := join(topic, name, variant), join(topic, name, variant)
	until("each has two partitions", func() bool { return len(a.assigned) == 2 && len(b.assigned) == 2 })
	send(producer, topic, 0, 40)
	until("all 40 are handled", func() bool { return len(values) >= 40 })
	b.leave()
	send(producer, topic, 40, 80)
	until("all 80 are handled", func() bool { return len(values) >= 80 })
	check(len(a.assigned) == 4, a.assigned)
	a.leave()
	slices.Sort(values)
	for i, found := range values {
		check(i == found && len(values) == 80, values)
	}
	admin := kadm.NewClient(client())
	defer admin.Close()
	sum := int64(0)
	must(admin.FetchOffsets(ctx, name)).Each(func(o kadm.OffsetResponse) { sum += o.At })
	check(sum == 80, sum)
}

func main() {
	servers = strings.Split(os.Args[1], ",")
	var cancel context.CancelFunc
	ctx, cancel = context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	switch variant := os.Args[3]; os.Args[2] {
	case "codecs":
		codec(variant)
	case "transactions":
		transactions()
	case "group":
		group(variant)
	default:
		panic(os.Args[2])
	}
	fmt.Println("ok")
}
