//! What goes wrong in the shop: error kinds by family of span, and the exceptions that come with them.

use super::{
    random::Dice,
    shop::{Family, Language, Shape},
};

/// Share of waiting spans that fail because the span they waited for did.
pub(super) const PASSED_ON_PERCENT: u8 = 72;

/// Share of spans where an error began that carry the exception as an event.
const EXCEPTION_PERCENT: u8 = 42;

/// Share of spans that only pass an error on and carry one nevertheless.
const WRAPPED_EXCEPTION_PERCENT: u8 = 7;

/// Why a span failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    /// Value of `error.type`, and type of the exception.
    pub(super) error_type: &'static str,
    pub(super) message: &'static str,
    pub(super) has_exception: bool,
}

/// The fault of the span where it begins.
pub(super) fn origin(shape: Shape, dice: &mut Dice) -> Fault {
    let kinds: &[(&'static str, &'static str)] = match shape.family() {
        Family::Database => &[
            ("DeadlockDetected", "deadlock detected: process 4711 waits for ShareLock on transaction 98231"),
            ("QueryCanceled", "canceling statement due to statement timeout"),
            ("TooManyConnections", "remaining connection slots are reserved for superusers"),
            ("UniqueViolation", "duplicate key value violates unique constraint"),
        ],
        Family::Cache => &[
            ("ConnectionResetError", "connection reset by peer"),
            ("ReadTimeout", "timeout reading from socket after 250 ms"),
        ],
        Family::Http => &[
            ("UpstreamTimeout", "upstream request timed out after 3000 ms"),
            ("ServiceUnavailable", "no healthy upstream"),
            ("IllegalStateException", "response already committed"),
        ],
        Family::Rpc => &[
            ("DeadlineExceeded", "context deadline exceeded"),
            ("Unavailable", "connection error: desc = transport: error while dialing"),
            ("FailedPrecondition", "version conflict, expected 7 and found 8"),
        ],
        Family::Messaging => &[
            ("MessageTooLarge", "message is larger than 1048576 bytes"),
            ("PoisonMessage", "cannot decode payload, moved to dead-letter queue"),
        ],
        Family::GenAi => &[
            ("RateLimitError", "rate limit reached for tokens per minute, retry in 1.2 s"),
            ("ContextLengthExceeded", "maximum context length is 128000 tokens"),
        ],
        Family::App => &[
            ("ValidationError", "quantity must be between 1 and 99"),
            ("NullPointerException", "cannot read field \"currency\" because \"price\" is null"),
            ("KeyError", "missing translation for locale"),
        ],
    };
    let (error_type, message) = dice.pick(kinds);
    Fault { error_type, message, has_exception: dice.percent(EXCEPTION_PERCENT) }
}

/// The fault of a span that waited for a failed one.
pub(super) fn passed_on(dice: &mut Dice) -> Fault {
    Fault {
        error_type: "UpstreamError",
        message: "call to a dependency failed",
        has_exception: dice.percent(WRAPPED_EXCEPTION_PERCENT),
    }
}

/// The status with which a failed HTTP request is answered.
pub(super) fn http_status(dice: &mut Dice) -> u16 {
    match dice.below(10) {
        0..6 => 500,
        6 => 502,
        7..9 => 503,
        _ => 504,
    }
}

/// The status with which a failed RPC is answered.
pub(super) fn rpc_status(fault: &Fault) -> i64 {
    match fault.error_type {
        "DeadlineExceeded" => 4,
        "FailedPrecondition" => 9,
        "Unavailable" => 14,
        _ => 13,
    }
}

/// A stack trace as the language prints it.
pub(super) fn stack_trace(language: Language, fault: &Fault, dice: &mut Dice) -> String {
    let frames = dice.pick(frames(language));
    let Fault { error_type, message, .. } = fault;
    match language {
        Language::Go => format!("{error_type}: {message}\n\ngoroutine {} [running]:\n{frames}", dice.below(90_000)),
        Language::Java => format!("com.example.shop.{error_type}: {message}\n{frames}"),
        Language::NodeJs => format!("{error_type}: {message}\n{frames}"),
        Language::Python => format!("Traceback (most recent call last):\n{frames}\n{error_type}: {message}"),
        Language::DotNet => format!("Shop.{error_type}: {message}\n{frames}"),
    }
}

fn frames(language: Language) -> &'static [&'static str] {
    match language {
        Language::Go => &[
            "shop/internal/store.(*Pool).Query(0xc0004d2000, {0xb21f60, 0xc00061a1e0}, {0xa4c1d2, 0x5f})\n\t/src/internal/store/pool.go:184 +0x3c5\nshop/internal/stock.(*Service).Reserve(0xc000216380, {0xb21f60, 0xc00061a1e0}, 0xc0003fe000)\n\t/src/internal/stock/service.go:97 +0x1b4\nshop/gen/inventory/v1._Inventory_Reserve_Handler({0x9f1b80, 0xc000216380}, {0xb21f60, 0xc00061a1e0})\n\t/src/gen/inventory/v1/inventory_grpc.pb.go:212 +0x1a6\ngoogle.golang.org/grpc.(*Server).processUnaryRPC(0xc0001ea000)\n\t/go/pkg/mod/google.golang.org/grpc/server.go:1394 +0xe2b",
            "shop/internal/proxy.(*Handler).forward(0xc00018c0e0, 0xc0005ae000)\n\t/src/internal/proxy/handler.go:141 +0x2d1\nshop/internal/proxy.(*Handler).ServeHTTP(0xc00018c0e0, {0xb1e8a0, 0xc0004c8380}, 0xc0005ae000)\n\t/src/internal/proxy/handler.go:66 +0x1c9\nnet/http.serverHandler.ServeHTTP({0xc000334120}, {0xb1e8a0, 0xc0004c8380}, 0xc0005ae000)\n\t/usr/local/go/src/net/http/server.go:3301 +0x8e\nnet/http.(*conn).serve(0xc0002b2000, {0xb21f60, 0xc000332f00})\n\t/usr/local/go/src/net/http/server.go:2102 +0x625",
        ],
        Language::Java => &[
            "\tat com.example.shop.order.OrderRepository.insert(OrderRepository.java:118)\n\tat com.example.shop.order.OrderService.place(OrderService.java:74)\n\tat com.example.shop.order.OrderController.create(OrderController.java:41)\n\tat java.base/jdk.internal.reflect.DirectMethodHandleAccessor.invoke(DirectMethodHandleAccessor.java:103)\n\tat org.springframework.web.method.support.InvocableHandlerMethod.doInvoke(InvocableHandlerMethod.java:255)\n\tat org.springframework.web.servlet.DispatcherServlet.doDispatch(DispatcherServlet.java:1089)\n\tat org.springframework.web.servlet.FrameworkServlet.service(FrameworkServlet.java:885)\n\tat org.apache.catalina.core.ApplicationFilterChain.doFilter(ApplicationFilterChain.java:142)\n\tat org.apache.tomcat.util.threads.TaskThread$WrappingRunnable.run(TaskThread.java:63)\n\tat java.base/java.lang.Thread.run(Thread.java:1583)",
            "\tat com.example.shop.payment.AcquirerClient.charge(AcquirerClient.java:203)\n\tat com.example.shop.payment.PaymentService.charge(PaymentService.java:88)\n\tat com.example.shop.payment.PaymentGrpcService.charge(PaymentGrpcService.java:52)\n\tat io.grpc.stub.ServerCalls$UnaryServerCallHandler$UnaryServerCallListener.onHalfClose(ServerCalls.java:182)\n\tat io.grpc.internal.ServerCallImpl$ServerStreamListenerImpl.halfClosed(ServerCallImpl.java:356)\n\tat io.grpc.internal.SerializingExecutor.run(SerializingExecutor.java:133)\n\tat java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1144)\n\tat java.base/java.lang.Thread.run(Thread.java:1583)",
        ],
        Language::NodeJs => &[
            "    at renderPage (/app/dist/server/render.js:88:19)\n    at process.processTicksAndRejections (node:internal/process/task_queues:105:5)\n    at async ProductPage.load (/app/dist/pages/product.js:41:17)\n    at async handle (/app/dist/server/router.js:132:22)\n    at async Server.<anonymous> (/app/dist/server/index.js:57:5)",
            "    at Gateway.fetch (/app/dist/lib/gateway.js:64:13)\n    at process.processTicksAndRejections (node:internal/process/task_queues:105:5)\n    at async Promise.all (index 1)\n    at async CheckoutPage.submit (/app/dist/pages/checkout.js:73:31)\n    at async handle (/app/dist/server/router.js:132:22)",
        ],
        Language::Python => &[
            "  File \"/app/shop/assistant/agent.py\", line 148, in run\n    reply = await self.client.chat(messages, tools=self.tools)\n  File \"/app/shop/assistant/client.py\", line 77, in chat\n    response = await self._post(\"/chat/completions\", body)\n  File \"/usr/lib/python3.13/site-packages/httpx/_client.py\", line 1783, in request\n    return await self.send(request, auth=auth, follow_redirects=follow_redirects)",
            "  File \"/app/shop/worker/consume.py\", line 92, in handle\n    payload = decode(message.body)\n  File \"/app/shop/worker/codec.py\", line 31, in decode\n    return SCHEMA.validate(json.loads(body))\n  File \"/app/shop/worker/schema.py\", line 58, in validate\n    raise KeyError(missing)",
        ],
        Language::DotNet => &[
            "   at Shop.Cart.CartStore.SaveAsync(Cart cart, CancellationToken token) in /src/Cart/CartStore.cs:line 117\n   at Shop.Cart.CartService.AddItem(AddItemRequest request, ServerCallContext context) in /src/Cart/CartService.cs:line 64\n   at Grpc.Shared.Server.UnaryServerMethodInvoker`3.ResolvedInterceptorInvoker(TRequest request, ServerCallContext context)\n   at Grpc.AspNetCore.Server.Internal.CallHandlers.UnaryServerCallHandler`3.HandleCallAsyncCore(HttpContext httpContext)",
            "   at Shop.Shipping.CarrierClient.RatesAsync(Address to, CancellationToken token) in /src/Shipping/CarrierClient.cs:line 83\n   at Shop.Shipping.QuoteEndpoint.Handle(QuoteRequest request) in /src/Shipping/QuoteEndpoint.cs:line 39\n   at Microsoft.AspNetCore.Routing.EndpointMiddleware.<Invoke>g__AwaitRequestTask|7_0(Endpoint endpoint, Task requestTask)",
        ],
    }
}
