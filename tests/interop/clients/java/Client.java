import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.BooleanSupplier;
import java.util.stream.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.*;

/** Java's kafka-clients in the scenarios of the package's docstring: java Client BOOTSTRAP SCENARIO VARIANT. */
public class Client {
    static final int COUNT = 100;
    static final Duration POLL = Duration.ofMillis(100);
    static String servers;

    public static void main(String[] given) throws Exception {
        servers = given[0];
        String variant = given[2];
        switch (given[1]) {
            case "codecs" -> codec(variant);
            case "transactions" -> transactions();
            case "group" -> group(variant);
            default -> throw new IllegalArgumentException(given[1]);
        }
        System.out.println("ok");
    }

    static Map<String, Object> config(Object... more) {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", servers);
        for (int i = 0; i < more.length; i += 2) config.put((String) more[i], more[i + 1]);
        return config;
    }

    static KafkaProducer<String, String> producer(Object... more) {
        return new KafkaProducer<>(config(more), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(Object... more) {
        Map<String, Object> config = config("auto.offset.reset", "earliest", "enable.auto.commit", false);
        config.putAll(config(more));
        return new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer());
    }

    static void create(Admin admin, String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    }

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(String.valueOf(what));
    }

    static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> consumer, String topic, int count) {
        consumer.assign(List.of(new TopicPartition(topic, 0)));
        consumer.seekToBeginning(consumer.assignment());
        List<ConsumerRecord<String, String>> found = new ArrayList<>();
        long end = System.nanoTime() + 20_000_000_000L;
        while (found.size() < count && System.nanoTime() < end) consumer.poll(POLL).forEach(found::add);
        consumer.poll(POLL).forEach(found::add);
        check(found.size() == count, found.size() + " of " + count + " records came");
        return found;
    }

    static void codec(String codec) throws Exception {
        String topic = "codec-" + codec;
        try (Admin admin = Admin.create(config())) {
            create(admin, topic, 1);
        }
        try (var producer = producer("compression.type", codec, "linger.ms", 50)) {
            for (int i = 0; i < COUNT; i++) {
                producer.send(new ProducerRecord<>(topic, 0, 1_000_000_000_000L + i, "key " + i, value(i),
                    List.of(new RecordHeader("n", Integer.toString(i).getBytes(StandardCharsets.UTF_8)))));
            }
        }
        try (var consumer = consumer()) {
            int i = 0;
            for (var record : read(consumer, topic, COUNT)) {
                check(record.offset() == i && record.timestamp() == 1_000_000_000_000L + i, record);
                check(record.key().equals("key " + i) && record.value().equals(value(i)), record);
                check(new String(record.headers().lastHeader("n").value()).equals("" + i), record);
                i++;
            }
        }
    }

    static String value(int i) {
        return "value " + i + " " + ".".repeat(200);
    }

    static void transactions() throws Exception {
        try (Admin admin = Admin.create(config())) {
            create(admin, "tx", 1);
            create(admin, "tx-in", 1);
            create(admin, "tx-out", 1);
        }
        try (var producer = producer("transactional.id", "t")) {
            producer.initTransactions();
            for (String how : List.of("committed", "aborted", "again")) {
                producer.beginTransaction();
                for (int i = 0; i < 10; i++) producer.send(new ProducerRecord<>("tx", how + " " + i));
                if (how.equals("aborted")) {
                    producer.flush();
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
        }
        try (var consumer = consumer("isolation.level", "read_committed")) {
            List<String> values = read(consumer, "tx", 20).stream().map(ConsumerRecord::value).toList();
            check(values.equals(Stream.of("committed ", "again ")
                .flatMap(how -> IntStream.range(0, 10).mapToObj(i -> how + i)).toList()), values);
        }
        try (var consumer = consumer("isolation.level", "read_uncommitted")) {
            check(read(consumer, "tx", 30).get(10).value().equals("aborted 0"), "aborted records");
        }
        try (var producer = producer()) {
            for (int i = 0; i < 10; i++) producer.send(new ProducerRecord<>("tx-in", "" + i));
        }
        try (var producer = producer("transactional.id", "pipe");
             var consumer = consumer("group.id", "tx-group", "isolation.level", "read_committed")) {
            producer.initTransactions();
            consumer.subscribe(List.of("tx-in"));
            int done = 0;
            while (done < 10) {
                var records = consumer.poll(POLL);
                if (records.isEmpty()) continue;
                producer.beginTransaction();
                for (var record : records) producer.send(new ProducerRecord<>("tx-out", "out " + record.value()));
                long next = done + records.count();
                producer.sendOffsetsToTransaction(
                    Map.of(new TopicPartition("tx-in", 0), new OffsetAndMetadata(next)), consumer.groupMetadata());
                producer.commitTransaction();
                done = (int) next;
            }
        }
        try (var consumer = consumer("isolation.level", "read_committed")) {
            check(read(consumer, "tx-out", 10).get(9).value().equals("out 9"), "tx-out");
        }
        try (var old = producer("transactional.id", "fenced"); var young = producer("transactional.id", "fenced")) {
            old.initTransactions();
            old.beginTransaction();
            old.send(new ProducerRecord<>("tx", "of a fenced producer")).get();
            young.initTransactions();
            try {
                old.commitTransaction();
                check(false, "the older producer was not fenced");
            } catch (org.apache.kafka.common.errors.ProducerFencedException expected) {
                // as it should be
            }
        }
    }

    /** A member that polls on a thread of its own, and commits what it has handled before it polls again. */
    static class Member extends Thread {
        final KafkaConsumer<String, String> consumer;
        final Set<Integer> assigned = ConcurrentHashMap.newKeySet();
        final Queue<String> values;
        volatile boolean stops;
        volatile Throwable failure;

        Member(String topic, String group, String variant, Queue<String> values) {
            this.values = values;
            consumer = variant.equals("consumer")
                ? consumer("group.id", group, "group.protocol", "consumer")
                : consumer("group.id", group, "group.protocol", "classic", "heartbeat.interval.ms", 200,
                    "partition.assignment.strategy", "org.apache.kafka.clients.consumer." + variant);
            consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                    partitions.forEach(each -> assigned.add(each.partition()));
                }
                public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                    partitions.forEach(each -> assigned.remove(each.partition()));
                }
            });
            start();
        }

        public void run() {
            try (consumer) {
                while (!stops) {
                    var records = consumer.poll(POLL);
                    records.forEach(each -> values.add(each.value()));
                    if (!records.isEmpty()) consumer.commitSync();
                }
            } catch (Throwable error) {
                failure = error;
            }
        }

        void end() throws Exception {
            stops = true;
            join(30_000);
            check(!isAlive(), "a member did not end");
            check(failure == null, failure);
        }
    }

    static void until(BooleanSupplier holds, String what) throws Exception {
        long end = System.nanoTime() + 30_000_000_000L;
        while (!holds.getAsBoolean()) {
            check(System.nanoTime() < end, "it never came to be that " + what);
            Thread.sleep(20);
        }
    }

    static void group(String variant) throws Exception {
        String topic = "shared-" + variant, group = "group-" + variant;
        Queue<String> values = new ConcurrentLinkedQueue<>();
        try (Admin admin = Admin.create(config()); var producer = producer()) {
            create(admin, topic, 4);
            Member a = new Member(topic, group, variant, values), b = new Member(topic, group, variant, values);
            until(() -> a.assigned.size() == 2 && b.assigned.size() == 2, "each has two partitions");
            for (int i = 0; i < 40; i++) producer.send(new ProducerRecord<>(topic, i % 4, null, "" + i));
            producer.flush();
            until(() -> values.size() >= 40, "all 40 are handled");
            b.end();
            for (int i = 40; i < 80; i++) producer.send(new ProducerRecord<>(topic, i % 4, null, "" + i));
            producer.flush();
            until(() -> values.size() >= 80, "all 80 are handled");
            check(a.assigned.size() == 4, a.assigned);
            a.end();
            check(values.stream().map(Integer::valueOf).sorted().toList()
                .equals(IntStream.range(0, 80).boxed().toList()), values);
            long committed = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get()
                .values().stream().mapToLong(OffsetAndMetadata::offset).sum();
            check(committed == 80, committed);
        }
    }
}
