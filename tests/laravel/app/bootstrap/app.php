<?php
/**
 * A stock Laravel 13 application: the framework's own configuration, everything by its .env. Only `block_for`, which has
 * no variable, and broadcasting by Redis are set here. Exceptions that Laravel reports go to the diary.
 */

use App\Diary;
use Illuminate\Foundation\Application;
use Illuminate\Foundation\Bootstrap\RegisterProviders;
use Illuminate\Foundation\Configuration\Exceptions;
use Illuminate\Foundation\Configuration\Middleware;

require_once 'Illuminate/autoload.php';
require_once 'Predis/autoload.php';
foreach (['Diary', 'Work', 'OnlyOnce', 'Said', 'Exercise'] as $class) {
    require_once dirname(__DIR__)."/app/$class.php";
}

$app = Application::configure(basePath: dirname(__DIR__))
    ->withRouting(web: dirname(__DIR__).'/routes/web.php', commands: dirname(__DIR__).'/routes/console.php')
    ->withMiddleware(fn (Middleware $middleware) => $middleware->preventRequestForgery(except: ['*']))
    ->withExceptions(function (Exceptions $exceptions) {
        $exceptions->report(fn (Throwable $e) => Diary::exception('reported', $e));
        $exceptions->render(fn (Throwable $e) => response(get_class($e).': '.$e->getMessage(), 500));
    })
    ->create();
$app->dontMergeFrameworkConfiguration();
$app->useConfigPath('/usr/share/php/Illuminate/config');
$app->beforeBootstrapping(RegisterProviders::class, fn () => config([
    'queue.connections.redis.block_for' => 5,
    // The table of batches: several processes write to it.
    'database.connections.sqlite.busy_timeout' => 20000,
    'database.connections.sqlite.journal_mode' => 'wal',
    'database.connections.sqlite.transaction_mode' => 'IMMEDIATE',
    'broadcasting.connections.redis' => ['driver' => 'redis', 'connection' => 'default'],
]));

return $app;
