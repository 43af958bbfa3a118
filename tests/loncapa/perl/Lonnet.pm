# What LON-CAPA's own programs do beside lonc, in their ways: lonnet, lond and loncron.
package Lonnet;
use strict;
use warnings;
use Socket;
use IO::Socket::UNIX;
use Exporter 'import';
our @EXPORT_OK = qw(read_conf become open_socket ask subreply reply critical save_delayed
    log_permanently signal_lonc running count_perm_log count_log hostname expected pause);

my %variables;
my %name;      # host id -> DNS name
my @ids;       # in the order of the table
my $count = 0; # of files in delayed/ that this process wrote

# The PerlSetVar lines of loncapa.conf and, where it is there, loncapa_apache.conf in a directory.
sub read_conf {
    my ($directory) = @_;
    for my $file ('loncapa.conf', 'loncapa_apache.conf') {
        open(my $lines, '<', "$directory/$file") or next;
        while (<$lines>) {
            $variables{$1} = $2 if /^\s*PerlSetVar\s+(\w+)\s+"?(.*?)"?\s*$/i;
        }
    }
    open(my $table, '<', "$variables{lonTabDir}/hosts.tab") or die "hosts.tab: $!\n";
    while (<$table>) {
        next if /^\s*[#^]/ or !/\S/;
        chomp;
        my ($id, undef, undef, $dns) = split(/:/);
        $name{$id} = $dns;
        push(@ids, $id);
    }
    return \%variables;
}

# Runs as the user and group of that number from now on.
sub become {
    my ($number) = @_;
    $( = $number;
    $) = "$number $number";
    $< = $number;
    $> = $number;
    die "cannot become $number\n" if "$<:$>" ne "$number:$number" or (split(' ', $)))[0] != $number;
}

sub pause { select(undef, undef, undef, shift) }

sub hostname { return $name{ shift() } }

# A connection to a UNIX socket, or undef.
sub open_socket {
    my ($path) = @_;
    return IO::Socket::UNIX->new(Peer => $path, Type => SOCK_STREAM, Timeout => 10);
}

# One line, one line back; undef if there is none.
sub ask {
    my ($socket, $line) = @_;
    local $SIG{PIPE} = 'IGNORE';
    $socket->print("$line\n") and $socket->flush or return;
    my $answer = <$socket>;
    return unless defined($answer) and chomp($answer);
    return $answer;
}

# Asks lonSockCreate for the socket of a DNS name.
sub create_connection {
    my ($dns, $id) = @_;
    my $socket = open_socket($variables{lonSockCreate} // '') or return;
    my @of_name = grep { $name{$_} eq $dns } @ids;
    my $answer = ask($socket, join(':', $dns, $id, @of_name, '2.11.4'));
    return ($answer // '') eq 'done';
}

# A connection to the socket of a host, or undef after `tries` tries. lonnet 1 looks for the id of the host,
# lonnet 2 for its DNS name. Both wait while NAME.lock exists. In a list: also the number of failed tries.
sub socket_of {
    my ($lonnet, $id, $tries, $spelled) = @_;
    my $dns = $spelled // $name{$id};
    my $path = "$variables{lonSockDir}/" . ($lonnet == 2 ? $dns : $id);
    pause(0.05) while -e "$path.lock";
    my $failed = 0;
    while ($failed < $tries) {
        my $socket = open_socket($path);
        return ($socket, $failed) if $socket;
        # lonSockCreate is asked where the socket is missing; that is no failure yet.
        if ($lonnet == 2 and create_connection($dns, $id)) {
            $socket = open_socket($path);
            return ($socket, $failed) if $socket;
        }
        $failed++;
        pause(0.2);
    }
    return (undef, $failed);
}

# The request as that lonnet sends it.
sub spoken {
    my ($lonnet, $id, $request) = @_;
    return $lonnet == 2 ? "sethost:$id:$request" : $request;
}

sub subreply {
    my ($lonnet, $id, $request, $spelled) = @_;
    my ($socket) = socket_of($lonnet, $id, 10, $spelled);
    return 'con_lost' unless $socket;
    my $answer = ask($socket, spoken($lonnet, $id, $request));
    return defined($answer) && $answer ne '' ? $answer : 'con_lost';
}

sub reply {
    my ($lonnet, $id, $request, $spelled) = @_;
    return 'no_such_host' unless $name{$id};
    my $answer = subreply($lonnet, $id, $request, $spelled);
    $answer = subreply($lonnet, $id, $request, $spelled) if $answer eq 'con_lost';
    return $answer;
}

# Without a reply the request is written into delayed/, in place, and read back.
sub critical {
    my ($lonnet, $id, $request) = @_;
    my $answer = reply($lonnet, $id, $request);
    return $answer if $answer ne 'con_lost';
    my ($socket) = socket_of($lonnet, $id, 1);
    ask($socket, 'reset_retries') if $socket;
    $answer = reply($lonnet, $id, $request);
    return $answer if $answer ne 'con_lost';
    return save_delayed($id, $request);
}

sub save_delayed {
    my ($id, $request) = @_;
    my $command = substr($request, 0, 16);
    $command =~ s/\W//g;
    my $file = sprintf('%s/delayed/%d.%d.%d.%s.%s', $variables{lonSockDir}, time, $count++, $$, $command, $id);
    umask(022);
    if (open(my $out, '>', $file)) {
        print $out "$request\n";
        close($out);
    }
    my $written = '';
    if (open(my $in, '<', $file)) {
        $written = <$in> // '';
        chomp($written);
    }
    log_permanently($written eq $request ? "D:$id:$request" : "F:$id:$request");
    return $written eq $request ? 'con_delayed' : 'con_failed';
}

sub log_permanently {
    my ($message) = @_;
    my $now = time;
    open(my $out, '>>', "$variables{lonDaemons}/logs/lonnet.perm.log") or die "lonnet.perm.log: $!\n";
    print $out "$now:$message:" . localtime($now) . "\n";
    close($out) or die "lonnet.perm.log: $!\n";
}

# The pid in lonc.pid if that process lives, as every daemon of LON-CAPA asks for it.
sub running {
    open(my $in, '<', "$variables{lonDaemons}/logs/lonc.pid") or return;
    my $pid = <$in> // '';
    chomp($pid);
    die "lonc.pid contains '$pid'\n" unless $pid =~ /^\d+$/;
    return kill(0, $pid) ? $pid : undef;
}

# Sends lonc a signal, as lond does when a host connects, and loncron; the pid, or undef.
sub signal_lonc {
    my ($signal) = @_;
    my $pid = running() or return;
    return kill($signal, $pid) ? $pid : undef;
}

# loncron's figures of lonnet.perm.log: D less S is what has not been sent, F what failed.
sub count_perm_log {
    my %count = (unsent => 0, F => 0, D => 0, S => 0, other => 0);
    open(my $in, '<', "$variables{lonDaemons}/logs/lonnet.perm.log") or die "lonnet.perm.log: $!\n";
    while (my $line = <$in>) {
        my ($time, $letter, $host, $command) = split(/:/, $line);
        my $whole = $line =~ /^\d+:[DSF]:[\w-]+:.+:\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\n$/;
        $count{ $whole && defined($command) && $name{$host} ? $letter : 'other' }++;
    }
    $count{unsent} = $count{D} - $count{S};
    return \%count;
}

# Lines of lonc.log with each of the words that loncron counts, and the lines with CRITICAL themselves.
sub count_log {
    my %count = (INFO => 0, WARNING => 0, CRITICAL => 0);
    my @critical;
    open(my $in, '<', "$variables{lonDaemons}/logs/lonc.log") or die "lonc.log: $!\n";
    while (my $line = <$in>) {
        for my $word (keys(%count)) { $count{$word}++ if $line =~ /$word/ }
        push(@critical, $line) if $line =~ /CRITICAL/;
    }
    return (\%count, @critical);
}

# What lond.pl replies to a request to that host: nothing else can be the reply to it.
sub expected {
    my ($id, $request) = @_;
    return $id if $request eq 'ping';
    return 'ok' if $request =~ /^put:/;
    return "$id:" . reverse($request);
}

1;
