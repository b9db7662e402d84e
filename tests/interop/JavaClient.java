// What Java's clients find: one scenario for each run, its results as lines `> name=value`.

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListOffsetsResult;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class JavaClient {
    static String bootstrap;
    static final Map<String, Object> found = new TreeMap<>();

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[0];
        switch (arguments[1]) {
            case "producing": producing(); break;
            case "consuming": consuming(); break;
            case "transactions": transactions(); break;
            case "admin": admin(); break;
            default: throw new IllegalArgumentException(arguments[1]);
        }
        found.forEach((name, value) -> System.out.println("> " + name + "=" + String.valueOf(value).replace("\n", " ")));
    }

    static Properties properties(Object... given) {
        Properties made = new Properties();
        made.put("bootstrap.servers", bootstrap);
        for (int at = 0; at < given.length; at += 2) made.put(given[at], given[at + 1]);
        return made;
    }

    static KafkaProducer<String, String> producer(Object... given) {
        return new KafkaProducer<>(properties(given), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(Object... given) {
        return new KafkaConsumer<>(properties(given), new StringDeserializer(), new StringDeserializer());
    }

    // The class of what a call throws, or its value.
    static Object outcome(Callable<?> call) {
        try {
            return call.call();
        } catch (ExecutionException error) {
            return error.getCause().getClass().getSimpleName();
        } catch (Exception error) {
            Throwable cause = error.getCause();
            return error.getClass().getSimpleName() + (cause == null ? "" : " of " + cause.getClass().getSimpleName());
        }
    }

    static void producing() throws Exception {
        try (Admin admin = Admin.create(properties())) {
            admin.createTopics(List.of(
                new NewTopic("java.15", 15, (short) 1), new NewTopic("java.32", 32, (short) 1), new NewTopic("java.10", 10, (short) 1),
                new NewTopic("java.compacted", 1, (short) 1).configs(Map.of("cleanup.policy", "compact")),
                new NewTopic("java.small", 1, (short) 1).configs(Map.of("max.message.bytes", "500")))).all().get();
        }
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            try (KafkaProducer<String, String> producer = producer("compression.type", codec)) {
                RecordMetadata sent = producer.send(new ProducerRecord<>("java.15", "TT0124", "v")).get();
                found.put("15, " + codec, sent.partition() + " at " + sent.offset());
            }
        }
        try (KafkaProducer<String, String> producer = producer()) {
            found.put("32", producer.send(new ProducerRecord<>("java.32", "fd7af248-ce5c-46a5-93d7-1c0c9005b99d", "v")).get().partition());
            found.put("10", producer.send(new ProducerRecord<>("java.10", "21", "v")).get().partition());
            found.put("no key", outcome(() -> producer.send(new ProducerRecord<>("java.compacted", "v")).get().offset()));
            found.put("too large", outcome(() -> producer.send(new ProducerRecord<>("java.small", "k", "v".repeat(600))).get().offset()));
            long late = System.currentTimeMillis() + 7_200_000;
            found.put("too late", outcome(() -> producer.send(new ProducerRecord<>("java.10", 0, late, "k", "v")).get().offset()));
            found.put("afterwards", outcome(() -> producer.send(new ProducerRecord<>("java.10", 0, "k", "v")).get().offset()));
            found.put("created", outcome(() -> producer.send(new ProducerRecord<>("java.created", "k", "v")).get().offset()));
            found.put("bad name", outcome(() -> producer.send(new ProducerRecord<>("java bad", "k", "v")).get().offset()));
        }
    }

    static void consuming() throws Exception {
        try (KafkaProducer<String, String> producer = producer()) {
            for (int number = 0; number < 3; number++) producer.send(new ProducerRecord<>("java.consuming", "k", "v" + number)).get();
        }
        for (String protocol : List.of("classic", "consumer")) {
            try (KafkaConsumer<String, String> consumer = consumer(
                    "group.id", "java." + protocol, "group.protocol", protocol, "auto.offset.reset", "earliest", "enable.auto.commit", "false")) {
                consumer.subscribe(List.of("java.consuming"));
                StringBuilder values = new StringBuilder();
                long end = System.currentTimeMillis() + 60_000;
                int count = 0;
                while (count < 3 && System.currentTimeMillis() < end)
                    for (ConsumerRecord<String, String> each : consumer.poll(Duration.ofMillis(100))) {
                        values.append(each.offset()).append(each.value()).append(each.timestampType()).append(each.leaderEpoch()).append(' ');
                        count++;
                    }
                found.put(protocol + ", values", values);
                TopicPartition at = new TopicPartition("java.consuming", 0);
                consumer.commitSync(Map.of(at, new OffsetAndMetadata(2, "note")));
                found.put(protocol + ", committed", consumer.committed(Set.of(at)).get(at));
                found.put(protocol + ", ends", consumer.beginningOffsets(Set.of(at)) + " " + consumer.endOffsets(Set.of(at)));
                found.put(protocol + ", by time", consumer.offsetsForTimes(Map.of(at, 1L)).get(at).offset());
                found.put(protocol + ", lag", consumer.currentLag(at));
                consumer.commitSync(Map.of(at, new OffsetAndMetadata(2, "m".repeat(4096))));
                found.put(protocol + ", metadata of 4097", outcome(() -> {
                    consumer.commitSync(Map.of(at, new OffsetAndMetadata(2, "m".repeat(4097))));
                    return "taken";
                }));
                try (Admin admin = Admin.create(properties())) {
                    ConsumerGroupDescription group = admin.describeConsumerGroups(List.of("java." + protocol)).all().get().get("java." + protocol);
                    found.put(protocol + ", described", group.groupState() + " " + group.type() + " " + group.partitionAssignor() + " "
                        + group.members().iterator().next().assignment().topicPartitions());
                    found.put(protocol + ", deleted", outcome(() -> admin.deleteConsumerGroups(List.of("java." + protocol)).all().get()));
                    for (GroupListing each : admin.listGroups().all().get())
                        if (each.groupId().equals("java." + protocol))
                            found.put(protocol + ", listed", each.type() + " " + each.groupState() + " " + each.protocol() + " " + each.isSimpleConsumerGroup());
                }
            }
        }
    }

    static void transactions() throws Exception {
        try (Admin admin = Admin.create(properties())) {
            admin.createTopics(List.of(new NewTopic("java.txn", 1, (short) 1))).all().get();
        }
        KafkaProducer<String, String> old = producer("transactional.id", "java.x");
        KafkaProducer<String, String> young = producer("transactional.id", "java.x");
        old.initTransactions();
        old.beginTransaction();
        old.send(new ProducerRecord<>("java.txn", "old")).get();
        young.initTransactions();
        found.put("zombie sends", outcome(() -> old.send(new ProducerRecord<>("java.txn", "old")).get()));
        found.put("zombie commits", outcome(() -> { old.commitTransaction(); return "committed"; }));
        young.beginTransaction();
        young.send(new ProducerRecord<>("java.txn", "aborted")).get();
        young.abortTransaction();
        young.beginTransaction();
        found.put("offset", young.send(new ProducerRecord<>("java.txn", "committed")).get().offset());
        young.sendOffsetsToTransaction(Map.of(new TopicPartition("java.txn", 0), new OffsetAndMetadata(7)), new org.apache.kafka.clients.consumer.ConsumerGroupMetadata("java.txn"));
        young.commitTransaction();
        for (String isolation : List.of("read_committed", "read_uncommitted")) {
            try (KafkaConsumer<String, String> consumer = consumer("isolation.level", isolation, "auto.offset.reset", "earliest", "group.id", "java.txn", "enable.auto.commit", "false")) {
                TopicPartition at = new TopicPartition("java.txn", 0);
                consumer.assign(List.of(at));
                consumer.seekToBeginning(List.of(at));
                StringBuilder values = new StringBuilder();
                long end = System.currentTimeMillis() + 60_000;
                while (!values.toString().contains("committed0") && System.currentTimeMillis() < end)
                    for (ConsumerRecord<String, String> each : consumer.poll(Duration.ofMillis(100)))
                        values.append(each.offset()).append(each.value()).append(each.partition()).append(' ');
                found.put(isolation, values);
                found.put("committed", consumer.committed(Set.of(at)).get(at).offset());
            }
        }
        young.close();
        old.close(Duration.ofSeconds(1));
    }

    static void admin() throws Exception {
        try (Admin admin = Admin.create(properties())) {
            found.put("created", outcome(() -> admin.createTopics(List.of(
                new NewTopic("java.admin", 2, (short) 1).configs(Map.of("retention.ms", "86400000")))).config("java.admin").get().get("retention.ms").value()));
            found.put("again", outcome(() -> admin.createTopics(List.of(new NewTopic("java.admin", 2, (short) 1))).all().get()));
            found.put("bad name", outcome(() -> admin.createTopics(List.of(new NewTopic("a b", 2, (short) 1))).all().get()));
            found.put("too many replicas", outcome(() -> admin.createTopics(List.of(new NewTopic("java.admin.2", 2, (short) 3))).all().get()));
            found.put("bad config", outcome(() -> admin.createTopics(List.of(
                new NewTopic("java.admin.2", 1, (short) 1).configs(Map.of("retention.ms", "x")))).all().get()));
            ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, "java.admin");
            found.put("altered", outcome(() -> admin.incrementalAlterConfigs(Map.of(topic, List.of(
                new AlterConfigOp(new ConfigEntry("cleanup.policy", "compact"), AlterConfigOp.OpType.APPEND)))).all().get()));
            long end = System.currentTimeMillis() + 60_000;
            while (true) {
                try {
                    ConfigEntry policy = admin.describeConfigs(List.of(topic)).all().get().get(topic).get("cleanup.policy");
                    found.put("policy", policy.value() + " " + policy.source() + " " + policy.type());
                    if (policy.value().contains("compact") || System.currentTimeMillis() > end) break;
                } catch (ExecutionException error) {
                    // The broker applies later what the controller has created and altered; this call of the Admin client does not retry.
                    boolean isEarly = error.getCause() instanceof UnknownTopicOrPartitionException;
                    if (!isEarly || System.currentTimeMillis() > end) throw error;
                }
                Thread.sleep(50);
            }
            TopicDescription described = admin.describeTopics(List.of("java.admin")).allTopicNames().get().get("java.admin");
            found.put("described", described.partitions().size() + " " + described.isInternal() + " " + described.partitions().get(0).leader().id());
            TopicPartition at = new TopicPartition("java.admin", 0);
            for (OffsetSpec spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(), OffsetSpec.earliestLocal())) {
                ListOffsetsResult.ListOffsetsResultInfo info = admin.listOffsets(Map.of(at, spec)).partitionResult(at).get();
                found.put(spec.getClass().getSimpleName(), info.offset() + " " + info.timestamp() + " " + info.leaderEpoch());
            }
            found.put("cluster", admin.describeCluster().nodes().get().size() + " " + admin.describeCluster().controller().get().id());
            found.put("no group", outcome(() -> admin.describeConsumerGroups(List.of("java.none")).all().get()));
            found.put("no topic", outcome(() -> admin.describeTopics(List.of("java.none")).allTopicNames().get()));
            found.put("elected", outcome(() -> admin.electLeaders(org.apache.kafka.common.ElectionType.PREFERRED, Set.of(at)).partitions().get().get(at)
                .map(error -> error.getClass().getSimpleName()).orElse("elected")));
            found.put("deleted", outcome(() -> admin.deleteTopics(List.of("java.admin")).all().get()));
            found.put("deleted again", outcome(() -> admin.deleteTopics(List.of("java.none")).all().get()));
        }
    }
}
