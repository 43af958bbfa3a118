#!/usr/bin/perl
# A lond: perl lond.pl --address ADDRESS --port PORT --table FILE --record FILE [--dialogue classic|later]
#          [--wakes DIRECTORY] ID ...
#
# Prints a line when it listens. Serves each connection in a process of its own and closes it without a word
# if its address is not in the table. Appends "ID<tab>CLIENT<tab>REQUEST" for each `put` to the record,
# "-<tab>CLIENT<tab>LINE" for each line of a dialogue, and "-<tab>ADDRESS<tab>unknown" for a stranger. TERM ends
# it and its children. With --wakes, each host that connects makes it send USR1 to the lonc whose configuration is
# in that directory: a host that connects is back, so lonc should try it again.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use Getopt::Long;
use IO::Socket::INET;
use POSIX qw(:signal_h :sys_wait_h);
use Socket;
use Lonnet qw(become expected read_conf signal_lonc);
use Wire qw(shared_key encipher decipher);

my ($dialogue, $user) = ('later');
my ($address, $port, $table, $record, $wakes);
GetOptions(
    'address=s' => \$address, 'port=i' => \$port, 'table=s' => \$table,
    'record=s' => \$record, 'dialogue=s' => \$dialogue, 'user=i' => \$user, 'wakes=s' => \$wakes,
) or exit(2);
my @own = @ARGV;
become($user) if defined($user);
read_conf($wakes) if defined($wakes);

my %client_at;  # address -> id
open(my $lines, '<', $table) or die "$table: $!\n";
while (<$lines>) {
    chomp;
    my @field = split(/:/);
    $client_at{ $field[4] } = $field[0];
}
close($lines);

my $listener = IO::Socket::INET->new(
    LocalAddr => $address, LocalPort => $port, Proto => 'tcp', Listen => 128, ReuseAddr => 1,
) or die "cannot listen at $address port $port: $@\n";
my %children;
my $ended = 0;
$SIG{TERM} = $SIG{INT} = sub { $ended = 1; kill('TERM', keys(%children)) };
$SIG{CHLD} = sub { local ($!, $?); while ((my $pid = waitpid(-1, WNOHANG)) > 0) { delete($children{$pid}) } };
$SIG{PIPE} = 'IGNORE';
$| = 1;
print "lond listens\n";

my $signals = POSIX::SigSet->new(SIGTERM, SIGINT, SIGCHLD);
my $before = POSIX::SigSet->new;
until ($ended) {
    # A signal that comes between the test of $ended and accept is found a tenth of a second later.
    my $readable = '';
    vec($readable, fileno($listener), 1) = 1;
    next if select($readable, undef, undef, 0.1) <= 0;
    my $connection = $listener->accept or next;
    POSIX::sigprocmask(SIG_BLOCK, $signals, $before);
    my $pid = fork;
    if (defined($pid) and $pid == 0) {
        @SIG{qw(TERM INT CHLD)} = ('DEFAULT') x 3;
        POSIX::sigprocmask(SIG_SETMASK, $before);
        close($listener);
        serve($connection);
        POSIX::_exit(0);
    }
    $children{$pid} = 1 if $pid;
    POSIX::sigprocmask(SIG_SETMASK, $before);
    close($connection);
}
close($listener);
kill('TERM', keys(%children));
while (%children) { select(undef, undef, undef, 0.02) }

sub record {
    open(my $out, '>>', $record) or die "$record: $!\n";
    syswrite($out, join("\t", @_) . "\n");
    close($out);
}

sub serve {
    my ($connection) = @_;
    my $client = $client_at{ $connection->peerhost // '' };
    return record('-', $connection->peerhost // '?', 'unknown') unless defined($client);
    # Of the later lond: until `sethost` it has not said which of its hosts it is.
    my $id = $dialogue eq 'classic' ? $own[0] : 'default';
    my ($challenge, $key, $known);
    while (defined(my $line = <$connection>)) {
        chomp($line) or return;
        my $was_known = $known;
        my ($reply, $end) = $known
            ? answer($line, $client, \$id, \$key)
            : greet($line, $client, \$challenge, \$known, \$key);
        signal_lonc('USR1') if $known and !$was_known and defined($wakes);
        $connection->print("$reply\n") and $connection->flush or return;
        return if $end;
    }
}

# The beginning of both dialogues: the reply, and whether the connection ends.
sub greet {
    my ($line, $client, $challenge, $known, $key) = @_;
    record('-', $client, $line =~ s/^(init:local):.*:/$1:FILE:/r);
    if (defined($$challenge)) {
        return ('refused', 1) if $line ne $$challenge;
        $$known = 1;
        return 'ok';
    }
    return ('refused', 1) unless $line =~ /^init/;
    if ($dialogue eq 'later' and $line =~ /^init:local:([^:]+)(?::|$)/) {
        my $file = $1;
        open(my $in, '<', $file) or return ('refused', 1);
        my @status = stat($in);
        $$key = <$in> // '';
        unlink($file);
        chomp($$key);
        return ('refused', 1) if ($status[2] & 07777) != 0600 or $$key !~ /^[0-9A-Fa-f]{32}$/;
        $$known = 1;
        return 'ok:local';
    }
    $$challenge = "$$" . time;
    return $$challenge;
}

# Everything behind it.
sub answer {
    my ($line, $client, $id, $key) = @_;
    if ($line eq 'ekey') {
        record('-', $client, $line);
        my $build = time . $$ . int(rand(100000));
        $build =~ tr/1-6/A-F/;
        $build = int(rand(100000)) . $build . int(rand(100000));
        $$key = shared_key($$id, $client, $build);
        return $build;
    }
    return ('bye', 1) if $line eq 'exit';
    if ($dialogue eq 'later') {
        if ($line eq 'version') {
            record('-', $client, $line);
            return '$Revision: 1.489 $';
        }
        if ($line =~ s/^sethost:([^:]+)(:|$)//) {
            my ($named, $more) = ($1, $2);
            record('-', $client, "sethost:$named") unless $more;
            return 'unknown_host' unless grep { $_ eq $named } @own;
            $$id = $named;
            return 'ok' unless $more;
        }
    }
    my $enciphered = $line =~ /^enc:/;
    if ($enciphered) {
        return 'rejected' unless defined($$key);
        $line = decipher($$key, $line);
        return 'error: cannot decipher' unless defined($line);
    }
    record($$id, $client, ($enciphered ? 'encrypt:' : '') . $line) if $line =~ /^put:/;
    return 'unknown_cmd' unless $line =~ /^(ping$|put:|get:|eget:|auth:)/;
    # Passwords come enciphered or not at all.
    return 'refused' if $line =~ /^(eget|auth):/ and !$enciphered;
    my $reply = expected($$id, $line);
    return $line =~ /^eget:/ ? encipher($$key, $reply) : $reply;
}
